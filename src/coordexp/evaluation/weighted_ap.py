"""Average precision of a weighted set of images: COCO's accumulation, in which a detection of an image that was drawn w times counts w times.

Equal to evaluating a file in which the images stand w times, as long as scores differ: repeats of a hit stand next to each other in the ranking,
precision rises along them, and the interpolated curve sees only their end. With all weights 1 it is COCO AP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.coco_matches import CocoMatches, Ranking
from coordexp.evaluation.columns import Floats

_RECALLS = np.linspace(0.0, 1.0, 101)
_TINY = float(np.spacing(1))
_CELLS_AT_ONCE = 500_000


@dataclass(frozen=True, slots=True)
class ApStatistic:
    """AP, AP50, AP75, APs, APm, APl with the prefix of the IoU type; NaN in a resample without ground truth.

    AP50 and AP75 are there when their threshold is.
    """

    matches: CocoMatches

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        prefix = self.matches.iou_type
        by_threshold = mean_over_categories(self.matches.rankings["all"], weights, num_thresholds=len(self.matches.iou_thrs))
        values = {f"{prefix}_AP": by_threshold.mean(axis=0)}
        for name, threshold in (("AP50", 0.5), ("AP75", 0.75)):
            if threshold in self.matches.iou_thrs:
                values[f"{prefix}_{name}"] = by_threshold[self.matches.iou_thrs.index(threshold)]
        for name, area in (("APs", "small"), ("APm", "medium"), ("APl", "large")):
            values[f"{prefix}_{name}"] = mean_over_categories(self.matches.rankings[area], weights, num_thresholds=len(self.matches.iou_thrs)).mean(axis=0)
        return values


def mean_over_categories(rankings: tuple[Ranking, ...], weights: Floats, *, num_thresholds: int) -> Floats:
    """[T, R]: mean over the categories that have ground truth in the resample; NaN where none has."""
    total = np.zeros((num_thresholds, weights.shape[1]))
    count = np.zeros(weights.shape[1])
    for ranking in rankings:
        values = average_precision(ranking, weights)
        is_defined = ~np.isnan(values[0])
        total += np.where(is_defined, values, 0.0)
        count += is_defined
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def average_precision(ranking: Ranking, weights: Floats) -> Floats:
    """[T, R]: mean of the interpolated precision at recall 0, 0.01, …, 1, for each threshold and resample; NaN without ground truth.

    `weights` [I, R]: how often each image was drawn.
    """
    width = max(1, _CELLS_AT_ONCE // max(1, len(ranking.image)))
    portions = [_average_precision(ranking, weights[:, start : start + width]) for start in range(0, weights.shape[1], width)]
    return np.concatenate(portions, axis=1)


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
