"""The rows of `matches.jsonl`: which prediction met which ground truth, one row an image. Indices are those of the record's own arrays."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from coordexp.evaluation.columns import Bools, EvaluationSet, Ints, ObjectTable
from coordexp.evaluation.f1ish import F1ishLevel, F1ishResult
from coordexp.evaluation.json_rows import plain_numbers, portions

_IMAGES_AT_ONCE = 250
_KINDS = ("bbox_2d", "poly")


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
    level = result.levels[threshold]
    gt_free, pred_free = np.ones(len(data.gt), np.bool_), result.is_evaluated.copy()
    gt_free[level.matches.gt] = False
    pred_free[level.matches.pred] = False
    columns = _Columns(data, level, pred_free=pred_free, gt_free=gt_free, is_ignored=~result.is_evaluated)
    for part in portions(len(data.images), _IMAGES_AT_ONCE):
        yield columns.rows(part, scope=result.scope)


class _Columns:
    """Everything a row needs, by image."""

    def __init__(self, data: EvaluationSet, level: F1ishLevel, *, pred_free: Bools, gt_free: Bools, is_ignored: Bools) -> None:
        num_images = len(data.images)
        self._data, self._level = data, level
        self._match_ranges = np.searchsorted(data.gt.image[level.matches.gt], np.arange(num_images + 1)).tolist()
        self._pred_kinds, self._gt_kinds = _kinds(data.pred), _kinds(data.gt)
        self._lists = tuple(_IndexLists(table, chosen, num_images) for table, chosen in ((data.pred, pred_free), (data.pred, is_ignored), (data.gt, gt_free)))

    def rows(self, part: slice, *, scope: str) -> list[MatchRow]:
        counts = self._level.counts
        tp, fn = counts.tp_loc[part], counts.fn_loc[part]
        numbers = (tp + fn, counts.pred_total[part], counts.pred_eval[part], counts.pred_ignored[part], tp, counts.fp_loc[part], fn)
        first = self._match_ranges[part.start]
        matches = self._matches(slice(first, self._match_ranges[part.stop]))
        bounds = [place - first for place in self._match_ranges[part.start : part.stop + 1]]
        free_pred, ignored_pred, free_gt = self._lists
        return [
            MatchRow(
                image.image_id,
                image.file_name,
                image.width,
                image.height,
                self._level.threshold,
                *of_image,
                scope,
                matches[bounds[row] : bounds[row + 1]],
                free_pred.of(part.start + row),
                ignored_pred.of(part.start + row),
                free_gt.of(part.start + row),
            )
            for row, (image, *of_image) in enumerate(zip(self._data.images[part], *(column.tolist() for column in numbers), strict=True))
        ]

    def _matches(self, part: slice) -> list[Match]:
        data, level = self._data, self._level
        pred, gt = level.matches.pred[part], level.matches.gt[part]
        similarity = [None if value != value else value for value in level.similarity[part].tolist()]  # NaN is unequal to itself
        descs = [[data.descs[code] for code in table.desc[rows].tolist()] for table, rows in ((data.pred, pred), (data.gt, gt))]
        return list(
            map(
                Match,
                data.pred.index[pred].tolist(),
                data.gt.index[gt].tolist(),
                level.matches.iou[part].tolist(),
                *descs,
                similarity,
                level.is_near[part].tolist(),
                plain_numbers(data.pred.boxes[pred]),
                plain_numbers(data.gt.boxes[gt]),
                [_KINDS[kind] for kind in self._pred_kinds[pred].tolist()],
                [_KINDS[kind] for kind in self._gt_kinds[gt].tolist()],
            )
        )


class _IndexLists:
    """For each image, the record's own indices of the chosen rows."""

    def __init__(self, table: ObjectTable, chosen: Bools, num_images: int) -> None:
        rows = np.flatnonzero(chosen)
        self._indices: list[int] = table.index[rows].tolist()
        self._bounds: list[int] = np.searchsorted(table.image[rows], np.arange(num_images + 1)).tolist()

    def of(self, image: int) -> list[int]:
        return self._indices[self._bounds[image] : self._bounds[image + 1]]


def _kinds(table: ObjectTable) -> Ints:
    """[N] position in `_KINDS`."""
    return table.is_polygon().astype(np.int64)
