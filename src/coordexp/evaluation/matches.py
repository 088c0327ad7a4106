"""The rows of `matches.jsonl`: which prediction met which ground truth, one row an image. Indices are those of the record's own arrays."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from coordexp.evaluation.columns import Bools, EvaluationSet, Ints, ObjectTable
from coordexp.evaluation.f1ish import F1ishLevel, F1ishResult
from coordexp.evaluation.json_rows import plain_numbers, portions

_IMAGES_AT_ONCE = 250


class Match(msgspec.Struct, gc=False):
    pred_idx: int
    gt_idx: int
    iou: float
    pred_desc: str
    gt_desc: str
    sem_sim: float | None
    """None where unknown."""
    sem_ok: bool
    pred_bbox: list[float]
    gt_bbox: list[float]
    pred_type: str
    gt_type: str


class MatchRow(msgspec.Struct):
    image_id: int
    file_name: str
    width: int
    height: int
    iou_thr: float
    gt_count: int
    pred_count: int
    pred_count_eval: int
    pred_count_ignored: int
    tp_loc: int
    fp_loc: int
    fn_loc: int
    pred_scope: str
    matches: list[Match]
    unmatched_pred_indices: list[int]
    ignored_pred_indices: list[int]
    unmatched_gt_indices: list[int]


def match_rows(data: EvaluationSet, result: F1ishResult, threshold: float) -> Iterator[list[MatchRow]]:
    """In file order, in portions."""
    level, num_images = result.levels[threshold], len(data.images)
    gt_free, pred_free = np.ones(len(data.gt), np.bool_), result.is_evaluated.copy()
    gt_free[level.matches.gt] = False
    pred_free[level.matches.pred] = False
    free_pred, ignored_pred = (_IndexLists(data.pred, chosen, num_images) for chosen in (pred_free, ~result.is_evaluated))
    free_gt = _IndexLists(data.gt, gt_free, num_images)
    ends: list[int] = np.searchsorted(data.gt.image[level.matches.gt], np.arange(num_images + 1)).tolist()
    for part in portions(num_images, _IMAGES_AT_ONCE):
        start: int = part.start
        stop: int = part.stop
        first = ends[start]
        matches = _matches(data, level, slice(first, ends[stop]))
        yield [
            MatchRow(
                image_id=image.image_id,
                file_name=image.file_name,
                width=image.width,
                height=image.height,
                iou_thr=threshold,
                gt_count=tp + fn,
                pred_count=total,
                pred_count_eval=evaluated,
                pred_count_ignored=total - evaluated,
                tp_loc=tp,
                fp_loc=fp,
                fn_loc=fn,
                pred_scope=result.scope,
                matches=matches[ends[place] - first : ends[place + 1] - first],
                unmatched_pred_indices=free_pred.of(place),
                ignored_pred_indices=ignored_pred.of(place),
                unmatched_gt_indices=free_gt.of(place),
            )
            for place, (image, (tp, fp, fn, total, evaluated)) in enumerate(zip(data.images[part], _counts(level, part), strict=True), start=start)
        ]


def _counts(level: F1ishLevel, part: slice) -> list[list[int]]:
    """[tp, fp, fn, predictions, evaluated predictions] of each image."""
    counts = level.counts
    return np.stack([column[part] for column in (counts.tp_loc, counts.fp_loc, counts.fn_loc, counts.pred_total, counts.pred_eval)], axis=1).tolist()


def _matches(data: EvaluationSet, level: F1ishLevel, part: slice) -> list[Match]:
    pred, gt = level.matches.pred[part], level.matches.gt[part]
    return list(
        map(
            Match,
            data.pred.index[pred].tolist(),
            data.gt.index[gt].tolist(),
            level.matches.iou[part].tolist(),
            _descs(data, data.pred, pred),
            _descs(data, data.gt, gt),
            [None if value != value else value for value in level.similarity[part].tolist()],  # NaN is unequal to itself
            level.is_near[part].tolist(),
            plain_numbers(data.pred.boxes[pred]),
            plain_numbers(data.gt.boxes[gt]),
            _kinds(data.pred, pred),
            _kinds(data.gt, gt),
        )
    )


def _descs(data: EvaluationSet, table: ObjectTable, rows: Ints) -> list[str]:
    codes: list[int] = table.desc[rows].tolist()
    return [data.descs[code] for code in codes]


def _kinds(table: ObjectTable, rows: Ints) -> list[str]:
    numbers: list[int] = rows.tolist()
    return ["poly" if row in table.polygons or row in table.masks else "bbox_2d" for row in numbers]


class _IndexLists:
    """For each image, the record's own indices of the chosen rows."""

    def __init__(self, table: ObjectTable, chosen: Bools, num_images: int) -> None:
        rows = np.flatnonzero(chosen)
        self._indices: list[int] = table.index[rows].tolist()
        self._bounds: list[int] = np.searchsorted(table.image[rows], np.arange(num_images + 1)).tolist()

    def of(self, image: int) -> list[int]:
        return self._indices[self._bounds[image] : self._bounds[image + 1]]
