"""Does a score of 0.8 mean that 80 % are right? Right is a prediction that f1_det matches at IoU 0.50."""

from __future__ import annotations

from dataclasses import dataclass

NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions with lower <= score < upper (the last bin holds its upper end)."""

    lower: float
    upper: float
    count: int
    mean_score: float | None
    """None when the bin is empty."""
    accuracy: float | None
    """Share that is right; None when the bin is empty."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Example: `Calibration(ece=0.07, …)`: over all predictions, score and share of right ones differ by 7 points on average."""

    ece: float
    """sum_b count_b / count · |accuracy_b − mean_score_b| (Guo et al. 2017)."""
    mce: float
    """Largest |accuracy_b − mean_score_b| of a bin that is not empty."""
    brier: float
    """Mean of (score − right)²."""
    auroc: float | None
    """Chance that a right prediction scores higher than a wrong one (ties half); None when all are right or all are wrong."""
    mean_score: float
    accuracy: float
    bins: tuple[ReliabilityBin, ...]
