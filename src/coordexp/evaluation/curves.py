"""Precision over recall, as COCO interpolates it: 101 recall points, precision made non-increasing from the right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.coco import UNDEFINED
from coordexp.evaluation.columns import Floats


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Curves of every category at one IoU threshold. Example: `mean(curve.by_category[3])` is the AP50 of category 4."""

    iou: float
    recall: Floats
    """[101] 0.00, 0.01, …, 1.00"""
    by_category: Floats
    """[K, 101] interpolated precision by position in `LabelPlan.categories`; NaN where a category has no ground truth."""
    mean: Floats
    """[101] mean over the categories with ground truth, so that its own mean is AP at this threshold; NaN without any."""


def precision_recall(curves: Mapping[float, Floats]) -> tuple[PrecisionRecall, ...]:
    """The curves that the COCO part hands out (IoU → [101, K], -1 where undefined), in the same order."""
    return tuple(_curve(iou, precision.T) for iou, precision in curves.items())


def _curve(iou: float, precision: Floats) -> PrecisionRecall:
    by_category = np.where(precision == UNDEFINED, np.nan, precision)
    has_gt = ~np.isnan(by_category[:, 0])
    num_points = by_category.shape[1]
    mean = by_category[has_gt].mean(axis=0) if has_gt.any() else np.full(num_points, np.nan)
    return PrecisionRecall(iou, np.linspace(0.0, 1.0, num_points), by_category, mean)
