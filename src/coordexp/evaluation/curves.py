"""Precision over recall, as COCO interpolates it: 101 recall points, precision made non-increasing from the right."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.evaluation.columns import Floats

CURVE_IOUS = (0.50, 0.75)
"""IoU thresholds that have a curve."""


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Curves of every category at one IoU threshold. Example: `nanmean(curve.by_category[3])` is the AP50 of category 4."""

    iou: float
    recall: Floats
    """[101] 0.00, 0.01, …, 1.00"""
    by_category: Floats
    """[K, 101] interpolated precision by position in `LabelPlan.categories`; NaN where a category has no ground truth."""
    mean: Floats
    """[101] mean over the categories with ground truth, so that its own mean is AP at this threshold; NaN without any."""
