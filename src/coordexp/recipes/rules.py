"""The rules of an evaluation: from a section of a configuration, and from what an earlier evaluation recorded."""

from __future__ import annotations

from typing import Any

from coordexp.config.evaluation import EvalSettings as EvalSection
from coordexp.evaluation.evaluate import EvalSettings
from coordexp.evaluation.f1_det import IOU_THRESHOLDS
from coordexp.evaluation.protocol import EvalProtocol
from coordexp.semantics.encoder import LazyEncoder


def evaluation_settings(section: EvalSection, *, prompt: str = "unknown") -> EvalSettings:
    """The rules of an evaluation from the section of a configuration."""
    return EvalSettings(
        pixel_mode=section.pixel_mode,
        score_mode=section.score_mode,
        with_coco=section.metrics in ("coco", "both"),
        with_f1ish=section.metrics in ("f1ish", "both"),
        f1ish_iou_thrs=section.f1ish_iou_thrs,
        f1ish_pred_scope=section.f1ish_pred_scope,
        with_segm=not section.no_segm,
        iou_thrs=section.iou_thrs,
        strict_parse=section.strict_parse,
        semantic_threshold=section.semantic_threshold,
        bootstrap=section.bootstrap,
        bootstrap_seed=section.bootstrap_seed,
        prompt=prompt,
    )


def label_encoder(section: EvalSection) -> LazyEncoder | None:
    """What compares names, looked for at the first use; None with the exact label rule."""
    if section.label_match == "exact":
        return None
    return LazyEncoder(section.semantic_model, device=section.semantic_device, batch_size=section.semantic_batch_size)


def recorded_rules(protocol: EvalProtocol) -> dict[str, Any]:
    """The settings of `EvalSection` that make a protocol, by their names; what it does not record is absent."""
    rules: dict[str, Any] = {"pixel_mode": protocol.pixel_mode, "score_mode": protocol.score_mode, "label_match": protocol.label_rule}
    if protocol.iou_thrs != IOU_THRESHOLDS:
        rules["iou_thrs"] = protocol.iou_thrs
    if protocol.label_threshold is not None:
        rules["semantic_threshold"] = protocol.label_threshold
    if protocol.label_encoder is not None:
        rules["semantic_model"] = protocol.label_encoder.rpartition("@")[0]
    return rules
