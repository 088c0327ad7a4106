"""What the report says about confidence: precision over recall, a sweep of the threshold, and whether a score means what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.calibration import Calibration, ReliabilityBin
from coordexp.evaluation.columns import Floats
from coordexp.evaluation.curves import PrecisionRecall
from coordexp.evaluation.nms_ap import NmsAp
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.sweep import ConfidenceSweep
from coordexp.viz.charts import UNIT, Bar, Marker, Series, Tone, line_chart
from coordexp.viz.script_data import script_json

MAX_CHOICES = 200
"""Classes whose own curve can be chosen, the most frequent ones."""

_TONES: tuple[Tone, ...] = ("main", "second")
_HEIGHT, _RELIABILITY_HEIGHT, _HISTOGRAM_HEIGHT = 290, 226, 108


@dataclass(frozen=True, slots=True)
class CurvesView:
    """Charts are safe markup. What is missing is None, and `absent` says why."""

    precision_recall: str | None
    legend: tuple[tuple[str, Tone], ...]
    """(name, tone) of the mean curves."""
    classes: tuple[str, ...]
    """Those that can be chosen, most frequent first."""
    class_curves: str
    """JSON for the page's script: for each of `classes`, for each IoU, 101 precisions in thousandths."""
    sweep: str | None
    best: ConfidenceSweep | None
    reliability: str | None
    histogram: str | None
    calibration: Calibration | None
    calibration_before: Calibration | None
    nms: NmsAp | None
    absent: tuple[str, ...]


def curves_view(result: EvaluationResult, before: EvaluationResult | None = None) -> CurvesView:
    """Everything about confidence in one result; of `before` its calibration beside."""
    analysis = result.analysis
    curves = [curve for curve in analysis.curves if np.isfinite(curve.mean).all()]
    chosen = _frequent_categories(result) if curves else []
    calibration = analysis.calibration
    earlier = before.analysis.calibration if before is not None else None
    return CurvesView(
        precision_recall=_precision_recall(curves) if curves else None,
        legend=tuple((_curve_name(curve), tone) for curve, tone in zip(curves, _TONES, strict=False)),
        classes=tuple(result.labels.categories[category] for category in chosen),
        class_curves=script_json([[_thousandths(curve.by_category[category]) for curve in curves] for category in chosen]),
        sweep=_sweep(analysis.sweep) if analysis.sweep else None,
        best=analysis.sweep,
        reliability=_reliability(calibration, earlier) if calibration else None,
        histogram=_histogram(calibration) if calibration else None,
        calibration=calibration,
        calibration_before=earlier,
        nms=analysis.nms,
        absent=analysis.absent,
    )


def _frequent_categories(result: EvaluationResult) -> list[int]:
    """Positions of categories with ground truth, most frequent first."""
    counts = np.bincount(result.labels.gt_category, minlength=len(result.labels.categories) + 1)[1:]
    order: list[int] = np.argsort(-counts, kind="stable").tolist()
    return [category for category in order if counts[category]][:MAX_CHOICES]


def _precision_recall(curves: list[PrecisionRecall]) -> str:
    lines = [Series(_curve_name(curve), _floats(curve.recall), _floats(curve.mean), tone) for curve, tone in zip(curves, _TONES, strict=False)]
    return line_chart(lines, title="Precision over recall, mean over the classes", x_name="recall", x_range=UNIT, y_range=UNIT, height=_HEIGHT)


def _curve_name(curve: PrecisionRecall) -> str:
    return f"IoU {curve.iou:.2f}"


def _sweep(sweep: ConfidenceSweep) -> str:
    scores = _floats(sweep.scores)
    is_share = scores[0] >= 0 and scores[-1] <= 1
    lines = [
        Series("precision", scores, _floats(sweep.precision), "second"),
        Series("recall", scores, _floats(sweep.recall), "third"),
        Series("F1", scores, _floats(sweep.f1), "main"),
    ]
    best = Marker(sweep.best.score, sweep.best.f1, f"best F1 {sweep.best.f1:.3f}")
    return line_chart(
        lines,
        title="F1, precision and recall by the score from which a prediction is kept",
        x_name="score threshold",
        x_range=UNIT if is_share else None,
        y_range=UNIT,
        markers=[best],
        height=_HEIGHT,
    )


def _reliability(calibration: Calibration, before: Calibration | None) -> str:
    bars = [Bar(item.lower, item.upper, item.accuracy, _bin_note(item)) for item in calibration.bins if item.accuracy is not None]
    ideal = Series("as it should be", UNIT, UNIT, "soft", is_dashed=True)
    title = f"Share of right predictions by score; expected calibration error {calibration.ece:.3f}"
    lines = [ideal]
    if before is not None:
        shares = [((item.lower + item.upper) / 2, item.accuracy) for item in before.bins if item.accuracy is not None]
        lines.append(Series("before", tuple(middle for middle, _ in shares), tuple(share for _, share in shares), "second"))
    return line_chart(lines, title=title, x_name="score", x_range=UNIT, y_range=UNIT, bars=bars, height=_RELIABILITY_HEIGHT)


def _histogram(calibration: Calibration) -> str:
    bars = [Bar(item.lower, item.upper, item.count, _bin_note(item)) for item in calibration.bins if item.count]
    most = max(item.count for item in calibration.bins)
    return line_chart([], title="Predictions by score", x_name="score", x_range=UNIT, y_range=(0.0, most * 1.05), bars=bars, height=_HISTOGRAM_HEIGHT)


def _bin_note(item: ReliabilityBin) -> str:
    right = "" if item.accuracy is None else f", mean score {item.mean_score:.2f}, {item.accuracy:.0%} right"
    return f"score {item.lower:.1f} to {item.upper:.1f}: {item.count:,} predictions{right}"


def _thousandths(values: Floats) -> list[int]:
    return np.rint(values * 1000).astype(np.int64).tolist()


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(values.tolist())
