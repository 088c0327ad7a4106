"""Average precision of a weighted set of images: COCO's accumulation, in which a detection of an image that was drawn w times counts w times.

Equal to evaluating a file in which the images stand w times, as long as scores differ: repeats of a hit stand next to each other in the ranking,
precision rises along them, and the interpolated curve sees only their end. With all weights 1 it is COCO AP.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.coco_matches import CocoMatches, Ranking
from coordexp.evaluation.columns import Floats

_RECALLS = np.linspace(0.0, 1.0, 101)
_TINY = float(np.spacing(1))
_CELLS_AT_ONCE = 500_000


@dataclass(frozen=True, slots=True)
class ApStatistic:
    """AP, AP50, AP75, APs, APm, APl with the prefix of the IoU type, and APr, APc, APf under the rules of LVIS; NaN in a resample without ground truth.

    AP50 and AP75 are there when their threshold is.
    """

    matches: CocoMatches

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        matches = self.matches
        of_all = [average_precision(ranking, weights) for ranking in matches.rankings["all"]]
        by_threshold = _mean_of_defined(of_all)
        values = {"AP": by_threshold.mean(axis=0)}
        for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            if threshold in matches.iou_thrs:
                values[name] = by_threshold[matches.iou_thrs.index(threshold)]
        for name, area in (("APs", "small"), ("APm", "medium"), ("APl", "large")):
            values[name] = _mean_of_defined(average_precision(ranking, weights) for ranking in matches.rankings[area]).mean(axis=0)
        for name in ("r", "c", "f") if matches.frequency is not None else ():
            chosen = [found for found, frequency in zip(of_all, matches.frequency or (), strict=True) if frequency == name]
            values[f"AP{name}"] = _mean_of_defined(chosen).mean(axis=0) if chosen else np.full(weights.shape[1], np.nan)
        return {f"{matches.iou_type}_{key}": column for key, column in values.items()}


def average_precision(ranking: Ranking, weights: Floats) -> Floats:
    """[T, R]: mean of the interpolated precision at recall 0, 0.01, …, 1, for each threshold and resample; NaN without ground truth.

    `weights` [I, R]: how often each image was drawn.
    """
    width = max(1, _CELLS_AT_ONCE // max(1, len(ranking.image)))
    portions = [_average_precision(ranking, weights[:, start : start + width]) for start in range(0, weights.shape[1], width)]
    return np.concatenate(portions, axis=1)


def _mean_of_defined(by_category: Iterable[Floats]) -> Floats:
    """[T, R] of arrays [T, R]: the mean over the categories that have ground truth in the resample; NaN where none has."""
    total, count = np.zeros(()), np.zeros(())
    for values in by_category:
        is_defined = ~np.isnan(values)
        total, count = total + np.where(is_defined, values, 0.0), count + is_defined
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _average_precision(ranking: Ranking, weights: Floats) -> Floats:
    num_gt = weights[ranking.gt_image].sum(axis=0)
    drawn = weights[ranking.image]
    result = np.zeros((ranking.is_hit.shape[0], weights.shape[1]))
    counted = np.empty(0)
    for level, (is_hit, is_counted) in enumerate(zip(ranking.is_hit, ranking.is_counted, strict=True)):
        if level == 0 or not np.array_equal(is_counted, ranking.is_counted[level - 1]):
            counted = np.cumsum(drawn * is_counted[:, None], axis=0)
        hits = np.flatnonzero(is_hit)
        if hits.size:
            result[level] = _area_under_curve(np.cumsum(drawn[hits], axis=0), counted[hits], num_gt)
    result[:, num_gt == 0] = np.nan
    return result


def _area_under_curve(tp: Floats, counted: Floats, num_gt: Floats) -> Floats:
    """[R], from the sums [H, R] at each hit. Only hits matter: precision falls between them, and recall is reached at them."""
    precision = tp / (counted + _TINY)  # the library's own guard against 0 / 0, needed to agree to the last bit
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    num_reached = np.searchsorted(_RECALLS, tp / np.maximum(num_gt, 1), side="right")
    newly_reached = np.diff(num_reached, axis=0, prepend=0)
    return (envelope * newly_reached).sum(axis=0) / len(_RECALLS)
