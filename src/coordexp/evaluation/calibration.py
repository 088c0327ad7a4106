"""Does a score of 0.8 mean that 80 % are right? Right is a prediction that f1_det matches at IoU 0.50."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import Bools, Floats, Ints

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


def calibration(scores: Floats, is_right: Bools) -> Calibration:
    """`scores` [P] in [0, 1], P > 0; `is_right` [P]."""
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    some = np.maximum(count, 1)
    mean_score = np.bincount(bins, weights=scores, minlength=NUM_BINS) / some
    accuracy = np.bincount(bins, weights=is_right, minlength=NUM_BINS) / some
    gaps = np.abs(accuracy - mean_score)
    return Calibration(
        ece=float((count * gaps).sum() / len(scores)),
        mce=float(gaps[count > 0].max()),
        brier=float(np.mean((scores - is_right) ** 2)),
        auroc=_auroc(scores, is_right),
        mean_score=float(scores.mean()),
        accuracy=float(is_right.mean()),
        bins=_bins(count, mean_score, accuracy),
    )


def _bins(count: Ints, mean_score: Floats, accuracy: Floats) -> tuple[ReliabilityBin, ...]:
    rows = zip(count.tolist(), mean_score.tolist(), accuracy.tolist(), strict=True)
    return tuple(
        ReliabilityBin(place / NUM_BINS, (place + 1) / NUM_BINS, number, score if number else None, share if number else None)
        for place, (number, score, share) in enumerate(rows)
    )


def _auroc(scores: Floats, is_right: Bools) -> float | None:
    """Mann-Whitney U over the number of pairs (right, wrong)."""
    num_right = int(is_right.sum())
    num_wrong = len(scores) - num_right
    if not num_right or not num_wrong:
        return None
    values, place = np.unique(scores, return_inverse=True)
    wrong = np.bincount(place[~is_right], minlength=len(values))
    beaten = np.cumsum(wrong) - wrong / 2
    return float(beaten[place[is_right]].sum() / (num_right * num_wrong))
