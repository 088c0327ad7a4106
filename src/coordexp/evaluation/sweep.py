"""What a confidence threshold would do: f1_det, precision and recall of the predictions with score >= s, for every s."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.evaluation.columns import Floats, Ints

SWEEP_IOU = 0.50
MAX_POINTS = 101
"""Points that a sweep keeps; the best one is sought among all distinct scores."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Example: `OperatingPoint(score=0.41, precision=0.80, recall=0.62, f1=0.70, num_pred=5210)`: keep the predictions with score >= 0.41."""

    score: float
    precision: float
    recall: float
    f1: float
    """f1_det of what is kept."""
    num_pred: int
    """Predictions that are kept."""


@dataclass(frozen=True, slots=True)
class ConfidenceSweep:
    """Numbers of the predictions with score >= `scores[i]`, matched anew at each threshold as f1_det matches them."""

    iou: float
    scores: Floats
    """[S] thresholds, rising: at most `MAX_POINTS` of the scores that occur, at even steps of the number of predictions kept; ends and best included."""
    precision: Floats
    """[S]"""
    recall: Floats
    """[S]"""
    f1: Floats
    """[S]"""
    num_pred: Ints
    """[S]"""
    best: OperatingPoint
    """Highest f1; the higher score when two are equal."""
    best_by_class: tuple[OperatingPoint | None, ...]
    """By position in `LabelPlan.classes`, counting that class alone; None for a class without a prediction."""
