"""Everything beyond the headline numbers that explains them: curves, confidence, calibration, confusions, error types, generation health."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.evaluation.calibration import Calibration
from coordexp.evaluation.confusion import ConfusionMatrix
from coordexp.evaluation.curves import PrecisionRecall
from coordexp.evaluation.error_types import ErrorTypes
from coordexp.evaluation.health import GenerationHealth
from coordexp.evaluation.nms_ap import NmsAp
from coordexp.evaluation.sweep import ConfidenceSweep


@dataclass(frozen=True, slots=True)
class DetectionAnalysis:
    """Part of `EvaluationResult`. What needs confidence scores is absent when the predictions have none; `absent` says what and why."""

    curves: tuple[PrecisionRecall, ...]
    """At IoU 0.50 and 0.75; empty without real scores or without the COCO part."""
    sweep: ConfidenceSweep | None
    """None without real scores."""
    calibration: Calibration | None
    """None without real scores, or when one lies outside [0, 1]."""
    confusion: ConfusionMatrix
    errors: ErrorTypes
    nms: NmsAp | None
    """None without real scores or without the COCO part."""
    health: GenerationHealth
    absent: tuple[str, ...]
    """One sentence for each part that is missing."""
