"""Counts of each image, kept once, so that every sum over a resample of images is a product of matrices.

A sum over resample r is `sum_i w[i, r] * count[i]`: F1, precision, recall and mean IoU of a resample are exact, not estimated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, Floats, Ints
from coordexp.evaluation.f1_det import IOU_THRESHOLDS, ObjectGroups
from coordexp.evaluation.f1ish import F1ishResult, precision_recall_f1
from coordexp.evaluation.overlaps import Overlaps

_NUM_LEVELS = len(IOU_THRESHOLDS)
_PRED, _GT, _IOU = _NUM_LEVELS, _NUM_LEVELS + 1, _NUM_LEVELS + 2


@dataclass(frozen=True, slots=True)
class DetSums:
    """f1_det counts of one group in each of R resamples."""

    tp: Floats
    """[T, R] at `IOU_THRESHOLDS`."""
    num_pred: Floats
    """[R]"""
    num_gt: Floats
    """[R]"""
    iou: Floats
    """[R] sum over the matches at the lowest threshold."""

    def f1(self, threshold: float) -> Floats:
        return _ratio(2 * self._tp(threshold), self.num_pred + self.num_gt)

    def precision(self, threshold: float) -> Floats:
        return _ratio(self._tp(threshold), self.num_pred)

    def recall(self, threshold: float) -> Floats:
        return _ratio(self._tp(threshold), self.num_gt)

    @property
    def f1_miou(self) -> Floats:
        return np.mean([self.f1(threshold) for threshold in IOU_THRESHOLDS], axis=0)

    @property
    def mean_iou(self) -> Floats:
        """NaN without a match."""
        return np.where(self.tp[0] > 0, self.iou / np.maximum(self.tp[0], 1), np.nan)

    def _tp(self, threshold: float) -> Floats:
        return self.tp[IOU_THRESHOLDS.index(threshold)]


@dataclass(frozen=True, slots=True)
class DetCountTable:
    """f1_det counts by group and image; only images in which the group has an object."""

    images: tuple[Ints, ...]
    """For each group [N]: positions of images."""
    counts: tuple[Floats, ...]
    """For each group [N, T + 3]: tp at each threshold, predictions, ground truths, sum of IoU."""

    @classmethod
    def of(cls, data: EvaluationSet, matches: Overlaps, groups: ObjectGroups) -> DetCountTable:
        num_images = len(data.images)
        group = np.concatenate([groups.pred, groups.gt])
        cells, place = np.unique(group * num_images + np.concatenate([data.pred.image, data.gt.image]), return_inverse=True)
        pred_cell, gt_cell = place[: len(data.pred)], place[len(data.pred) :]
        match_cell = gt_cell[matches.gt]

        def total(where: Ints, values: Floats | None = None) -> Floats:
            return np.bincount(where, weights=values, minlength=len(cells)).astype(np.float64)

        levels = [total(match_cell[matches.iou >= threshold]) for threshold in IOU_THRESHOLDS]
        counts = np.stack([*levels, total(pred_cell), total(gt_cell), total(match_cell, matches.iou)], axis=1)
        bounds = np.searchsorted(cells, np.arange(len(groups.names) + 1) * num_images)
        spans = [slice(low, high) for low, high in pairwise(bounds.tolist())]
        return cls(tuple(cells[span] % max(1, num_images) for span in spans), tuple(counts[span] for span in spans))

    def sums(self, weights: Floats) -> Iterator[DetSums]:
        """The sums of each group; `weights` [I, R]."""
        for images, counts in zip(self.images, self.counts, strict=True):
            whole = counts.T @ weights[images]
            yield DetSums(whole[:_NUM_LEVELS], whole[_PRED], whole[_GT], whole[_IOU])


@dataclass(frozen=True, slots=True)
class DetStatistic:
    """The shares among the keys of `det_metrics`. Example: `DetStatistic(DetCountTable.of(data, matches, groups["total"]))(weights)["f1_det@0.50"]`"""

    table: DetCountTable

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        (sums,) = self.table.sums(weights)
        values = {f"f1_det@{threshold:.2f}": sums.f1(threshold) for threshold in IOU_THRESHOLDS}
        values["f1_det_miou"] = sums.f1_miou
        for threshold in (0.50, 0.75, 0.95):
            values[f"f1_det@{threshold:.2f}_precision"] = sums.precision(threshold)
            values[f"f1_det@{threshold:.2f}_recall"] = sums.recall(threshold)
        return values | {"mean_matched_iou": sums.mean_iou}


@dataclass(frozen=True, slots=True)
class F1ishStatistic:
    """The shares among the keys of `f1ish_metrics`."""

    result: F1ishResult

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        values: dict[str, Floats] = {}
        for threshold, level in self.result.levels.items():
            key, counts = f"f1ish@{threshold:.2f}_", level.counts
            values |= _rates(key, "loc", counts.tp_loc, counts.fp_loc, counts.fn_loc, weights)
            values |= _rates(key, "full", counts.sem_ok, counts.fp_full, counts.fn_full, weights)
            values[f"{key}sem_acc_on_matched"] = _ratio(counts.sem_ok @ weights, counts.tp_loc @ weights)
        return values


def _rates(key: str, kind: str, tp: Ints, fp: Ints, fn: Ints, weights: Floats) -> dict[str, Floats]:
    """Micro from the sums, macro as the mean over the drawn images; counts [I], `weights` [I, R]."""
    names = ("precision", "recall", "f1")
    micro = precision_recall_f1(tp @ weights, fp @ weights, fn @ weights)
    rates = {f"{key}{name}_{kind}_micro": values for name, values in zip(names, micro, strict=True)}
    by_image = precision_recall_f1(tp, fp, fn)
    return rates | {f"{key}{name}_{kind}_macro": values @ weights / len(tp) for name, values in zip(names, by_image, strict=True)}


def _ratio(part: Floats, whole: Floats) -> Floats:
    """1 where the denominator is 0, as f1_det defines it."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)
