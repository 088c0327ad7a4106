"""`per_image.json`: what each image contributed to the numbers, and which of its objects could not be used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
from msgspec import UNSET

from coordexp.evaluation.columns import EvaluationSet, Floats, InvalidObject
from coordexp.evaluation.f1_det import IOU_THRESHOLDS, DetCounts
from coordexp.evaluation.f1ish import F1ishLevel, F1ishResult
from coordexp.evaluation.json_rows import portions

_AT_50 = IOU_THRESHOLDS.index(0.50)

_DEEPEST = 50


class DetRow(msgspec.Struct, gc=False):
    tp: int
    fp: int
    fn: int
    f1: float
    f1_miou: float
    mean_iou: float | None


class F1ishRow(msgspec.Struct, gc=False):
    tp_loc: int
    fp_loc: int
    fn_loc: int
    pred_count_eval: int
    pred_count_ignored: int
    matched_sem_ok: int
    matched_sem_bad: int
    sem_acc_on_matched: float
    tp_full: int
    fp_full: int
    fn_full: int


class PerImageRow(msgspec.Struct):
    image_id: int
    file_name: str
    gt_count: int
    pred_count: int
    invalid_gt: list[dict[str, object]]
    invalid_pred: list[dict[str, object]]
    f1_det: DetRow
    errors: tuple[str, ...]
    f1ish: Any = UNSET
    """Threshold → `F1ishRow`."""


def per_image_rows(data: EvaluationSet, per_image: Sequence[DetCounts], found: F1ishResult | None) -> Iterator[list[PerImageRow]]:
    """In file order, in portions."""
    det = _det_rows(per_image)
    levels = {f"{threshold:.2f}": _f1ish_rows(level) for threshold, level in found.levels.items()} if found else {}
    for part in portions(len(data.images)):
        yield [_row(data, per_image, det, levels, place) for place in range(part.start, part.stop)]


def _row(data: EvaluationSet, per_image: Sequence[DetCounts], det: Sequence[DetRow], levels: Mapping[str, Sequence[F1ishRow]], place: int) -> PerImageRow:
    image, counts = data.images[place], per_image[place]
    return PerImageRow(
        image_id=image.image_id,
        file_name=image.file_name,
        gt_count=counts.num_gt,
        pred_count=counts.num_pred,
        invalid_gt=[_invalid_as_dict(item) for item in image.invalid_gt],
        invalid_pred=[_invalid_as_dict(item) for item in image.invalid_pred],
        f1_det=det[place],
        errors=image.errors,
        f1ish={key: rows[place] for key, rows in levels.items()} if levels else UNSET,
    )


def _det_rows(per_image: Sequence[DetCounts]) -> list[DetRow]:
    if not per_image:
        return []
    tp = np.stack([counts.tp for counts in per_image])
    num_pred, num_gt = (np.array([getattr(counts, name) for counts in per_image], dtype=np.int64) for name in ("num_pred", "num_gt"))
    total = (num_pred + num_gt)[:, None]
    f1: Floats = np.where(total > 0, 2 * tp / np.maximum(total, 1), 1.0)
    tp_50 = tp[:, _AT_50]
    columns = (tp_50, num_pred - tp_50, num_gt - tp_50, f1[:, _AT_50], f1.mean(axis=1))
    return list(map(DetRow, *(column.tolist() for column in columns), [counts.mean_iou for counts in per_image]))


def _f1ish_rows(level: F1ishLevel) -> list[F1ishRow]:
    counts = level.counts
    matched = counts.sem_ok + counts.sem_bad
    accuracy = np.where(matched > 0, counts.sem_ok / np.maximum(matched, 1), 1.0)
    columns = (
        counts.tp_loc,
        counts.fp_loc,
        counts.fn_loc,
        counts.pred_eval,
        counts.pred_ignored,
        counts.sem_ok,
        counts.sem_bad,
        accuracy,
        counts.sem_ok,
        counts.fp_full,
        counts.fn_full,
    )
    return list(map(F1ishRow, *(column.tolist() for column in columns)))


def _invalid_as_dict(item: InvalidObject) -> dict[str, object]:
    return {"reason": item.reason, "raw": _finite(item.raw)}


def _finite(value: object, *, depth: int = _DEEPEST) -> object:
    """NaN and infinity as texts: JSON has no such numbers. What is nested deeper than any reader of the file follows becomes a text too."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | dict) and not depth:
        return f"nested deeper than {_DEEPEST} levels"
    if isinstance(value, list):
        return [_finite(item, depth=depth - 1) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _finite(item, depth=depth - 1) for key, item in cast("dict[str, object]", value).items()}
    return value
