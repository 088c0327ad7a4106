"""Everything beyond the headline numbers that explains them: curves, confidence, calibration, confusions, error types, generation health.

Nothing here grows with images times classes; all of it is linear in objects and in pairs that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.calibration import Calibration, calibration
from coordexp.evaluation.coco import CocoNumbers
from coordexp.evaluation.columns import EvaluationSet
from coordexp.evaluation.confusion import ConfusionMatrix, confusion_matrix
from coordexp.evaluation.curves import PrecisionRecall, precision_recall
from coordexp.evaluation.error_types import ErrorTypes, error_types
from coordexp.evaluation.f1_det import DetResult
from coordexp.evaluation.health import GenerationHealth, generation_health
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.nms_ap import NMS_IOU, NmsAp, nms_ap
from coordexp.evaluation.overlaps import Overlaps
from coordexp.evaluation.pred_overlaps import find_pred_overlaps
from coordexp.evaluation.scores import ScorePlan
from coordexp.evaluation.sweep import ConfidenceSweep, confidence_sweep


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
    """One sentence for each reason why something is missing."""


def has_real_scores(scores: ScorePlan) -> bool:
    """Whether there is a ranking to analyse."""
    return scores.mode == "model" and len(scores.scores) > 0


def analyse(
    data: EvaluationSet,
    labels: LabelPlan,
    scores: ScorePlan,
    overlaps: Overlaps,
    det: DetResult,
    *,
    coco: CocoNumbers | None = None,
    iou_thrs: Sequence[float] | None = None,
) -> DetectionAnalysis:
    """All parts. `overlaps` must reach down to `BACKGROUND_IOU`; `coco` are the numbers of boxes, made with `iou_thrs`."""
    is_ranked = has_real_scores(scores)
    values, coco = scores.scores, coco if is_ranked else None
    is_share = is_ranked and bool(((values >= 0) & (values <= 1)).all())
    is_right = np.zeros(len(data.pred), dtype=np.bool_)
    is_right[det.matches.pred] = True
    doubles = find_pred_overlaps(data.pred, above=NMS_IOU)
    return DetectionAnalysis(
        curves=precision_recall(coco.curves) if coco else (),
        sweep=confidence_sweep(labels, overlaps, values) if is_ranked else None,
        calibration=calibration(values, is_right) if is_share else None,
        confusion=confusion_matrix(data, labels, overlaps),
        errors=error_types(data, labels, overlaps, det, scores=values if is_ranked else None, costs=coco.error_costs if coco else None),
        nms=nms_ap(data, labels, values, doubles, iou_thrs=iou_thrs) if coco else None,
        health=generation_health(data, labels, doubles),
        absent=tuple(_reasons(scores, is_share=is_share, coco=coco)),
    )


def _reasons(scores: ScorePlan, *, is_share: bool, coco: CocoNumbers | None) -> list[str]:
    if not len(scores.scores):
        return ["nothing about confidence: there is no prediction"]
    if scores.mode != "model":
        return ["no curves, confidence sweep, calibration, NMS-AP and costs in AP: the predictions have no scores that differ"]
    reasons: list[str] = []
    if not is_share:
        reasons.append(f"no calibration: scores lie between {scores.scores.min():g} and {scores.scores.max():g}, which is not within 0 and 1")
    if coco is None:
        reasons.append("no curves, NMS-AP and costs in AP: average precision was not asked for")
    elif coco.error_costs is None:
        reasons.append("no costs in AP: they are those at IoU 0.50, which is not among the thresholds")
    return reasons


def analysis_metrics(analysis: DetectionAnalysis) -> dict[str, float]:
    """The headline keys. Example: `{"best_f1": 0.71, "best_score": 0.42, "ece": 0.08, "errors/missed_delta_f1": 0.11, "health/empty": 0.02, …}`"""
    metrics: dict[str, float] = {}
    if analysis.sweep is not None:
        metrics |= {"best_f1": analysis.sweep.best.f1, "best_score": analysis.sweep.best.score}
    if analysis.calibration is not None:
        metrics["ece"] = analysis.calibration.ece
    if analysis.nms is not None:
        metrics |= {"nms_bbox_AP": analysis.nms.ap, "nms_bbox_AP50": analysis.nms.ap50}
    metrics |= {f"errors/{kind}_delta_f1": found.delta_f1 for kind, found in analysis.errors.kinds.items()}
    health = analysis.health
    shares = {name: getattr(health, name) for name in ("truncated", "looped", "malformed", "failed", "empty", "duplicates")}
    metrics |= {f"health/{name}": share for name, share in shares.items() if share is not None}
    return metrics | {"health/objects_per_image_gt": health.gt_objects.mean, "health/objects_per_image_pred": health.pred_objects.mean}
