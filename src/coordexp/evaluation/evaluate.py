"""From records to numbers: read, label, overlap, count. The one entry that commands, pipelines and callbacks share.

Example: `evaluate(Path("gt_vs_pred.jsonl")).metrics["f1_det@0.50"]`; with the semantic label rule: `evaluate(path, encoder=LazyEncoder())`
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.evaluation.analysis import analyse, analysis_metrics, has_real_scores
from coordexp.evaluation.bootstrap import FEW_IMAGES, bootstrap_intervals
from coordexp.evaluation.coco import CocoNumbers, coco_numbers
from coordexp.evaluation.collector import no_collection
from coordexp.evaluation.columns import EvaluationSet
from coordexp.evaluation.error_types import BACKGROUND_IOU
from coordexp.evaluation.f1_det import IOU_THRESHOLDS, det_metrics, f1_det
from coordexp.evaluation.f1ish import DEFAULT_THRESHOLDS, F1ishResult, PredScope, f1ish, f1ish_metrics
from coordexp.evaluation.federation import ApProtocol
from coordexp.evaluation.foreign import label_by_file, read_coco_pair
from coordexp.evaluation.ignored import leave_out_ignored
from coordexp.evaluation.ingest import PixelMode, ingest_file, ingest_records
from coordexp.evaluation.labels import LabelOutcome, LabelPlan, apply_label_rule
from coordexp.evaluation.overlaps import Overlaps, find_overlaps
from coordexp.evaluation.protocol import EvalProtocol
from coordexp.evaluation.resampling import DEFAULT_SEED, Resampling
from coordexp.evaluation.result import EvaluationResult, class_rows
from coordexp.evaluation.scores import ScoreMode, ScorePlan, plan_scores
from coordexp.evaluation.semantic_report import report_labels
from coordexp.evaluation.similarity import LabelSimilarity
from coordexp.semantics.protocol import TextEncoder
from coordexp.types.progress import NoProgress, Progress


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """The rules of an evaluation. Example: `EvalSettings(pixel_mode="exact")`"""

    pixel_mode: PixelMode = "int"
    score_mode: ScoreMode = "auto"
    with_coco: bool = True
    """Average precision and recall beside f1_det, which is always computed."""
    with_f1ish: bool = True
    f1ish_iou_thrs: tuple[float, ...] = DEFAULT_THRESHOLDS
    f1ish_pred_scope: PredScope = "annotated"
    with_segm: bool = True
    """Segmentation AP too, when predictions have polygons."""
    iou_thrs: tuple[float, ...] | None = None
    """Of the COCO part; None: 0.50:0.05:0.95."""
    protocol: ApProtocol = "auto"
    """Rules of COCO files: of COCO, of LVIS, or as the instances file allows."""
    strict_parse: bool = False
    semantic_threshold: float = 0.6
    """Cosine from which on the semantic label rule, that of an evaluation with an encoder, calls two names near."""
    bootstrap: int = 0
    """Resamples for 95 % intervals; 0: none."""
    bootstrap_seed: int = DEFAULT_SEED
    prompt: str = "unknown"
    """For the protocol: which categories the prompt named (`none`, `gt`, `all`)."""
    constraint: str | None = None
    """For the protocol: what constrained decoding kept the model to; None: to nothing."""


def evaluate(
    source: Path | str | Iterable[Mapping[str, Any]],
    *,
    settings: EvalSettings | None = None,
    encoder: TextEncoder | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Evaluate a `gt_vs_pred.jsonl`, or its records in memory.

    Args:
        source: the file, or dictionaries with the keys of its lines.
        settings: the rules; None: `EvalSettings()`.
        encoder: with one, names follow the semantic label rule, as in `coordexp eval` by default; without, the exact one.
        progress: shows what goes on.

    Raises:
        DataError: the file cannot be read; a bad line with `strict_parse`; a missing score with score mode `model`.
        BackendError: names have to be compared and the encoder cannot be had.
    """
    settings = settings or EvalSettings()
    source = Path(source) if isinstance(source, str) else source
    if isinstance(source, Path):
        data = ingest_file(source, pixel_mode=settings.pixel_mode, strict_parse=settings.strict_parse, progress=progress)
    else:
        data = ingest_records(source, pixel_mode=settings.pixel_mode)
    result = evaluate_set(data, settings=settings, encoder=encoder, progress=progress)
    return replace(result, source=source) if isinstance(source, Path) else result


def evaluate_coco(coco_gt: Path, coco_preds: Path, *, settings: EvalSettings | None = None, progress: Progress | None = None) -> EvaluationResult:
    """Evaluate a COCO results file against its instances file. Categories are matched by their ids, so no label rule applies.

    Raises:
        DataError: a file cannot be read or is of another kind, nothing in it can be used, or (`strict_parse`) an entry cannot.
    """
    settings, progress = settings or EvalSettings(), progress or NoProgress()
    progress.say(f"reading {coco_gt.name} and {coco_preds.name}")
    with no_collection():
        data = read_coco_pair(coco_gt, coco_preds, protocol=settings.protocol, strict=settings.strict_parse, with_masks=settings.with_segm)
    return replace(evaluate_set(data, settings=settings, progress=progress), source=coco_preds, coco_gt=coco_gt)


@no_collection()
def evaluate_set(data: EvaluationSet, *, settings: EvalSettings, encoder: TextEncoder | None = None, progress: Progress | None = None) -> EvaluationResult:
    """The same on columns that were read before."""
    progress = progress or NoProgress()
    outcome = _label(data, settings, encoder, progress)
    labels = outcome.plan
    scores = plan_scores(data, labels, mode=settings.score_mode)
    if data.coco is not None:
        data, labels, scores = leave_out_ignored(data, labels, scores)
        outcome = replace(outcome, plan=labels)
    progress.say(f"matching {len(data.pred)} predictions with {len(data.gt)} ground truths in {len(data.images)} images")
    overlaps = find_overlaps(data, minimum=min(BACKGROUND_IOU, *settings.f1ish_iou_thrs))
    det = f1_det(data, labels, overlaps)
    metrics = det_metrics(det.total)
    coco = _coco_part(data, labels, scores, settings) if settings.with_coco else []
    for numbers in coco:
        metrics |= numbers.metrics
    found = _f1ish_part(data, outcome, overlaps, settings) if settings.with_f1ish else None
    metrics |= f1ish_metrics(found) if found else {}
    analysis = analyse(data, labels, scores, overlaps, det, coco=coco[0] if coco else None, iou_thrs=settings.iou_thrs)
    metrics |= analysis_metrics(analysis)
    category_ap = coco[0].per_category if coco else np.empty(0)
    report = report_labels(data, outcome)
    result = EvaluationResult(
        metrics=metrics,
        counters={**data.counters, **labels.counters, "semantic_report_failed": int(report is not None and not report.is_complete)},
        protocol=_protocol(data, settings, scores, outcome.similarity),
        det=det,
        per_class=class_rows(labels, det, category_ap),
        category_ap=category_ap,
        data=data,
        labels=labels,
        scores=scores,
        f1ish=found,
        analysis=analysis,
        warnings=(*_emptiness(data), *_losses(data), *data.warnings, *(report.warnings if report else ())),
        with_segm=settings.with_segm,
        semantic_report=report,
    )
    return _with_intervals(result, settings, progress) if settings.bootstrap else result


def _label(data: EvaluationSet, settings: EvalSettings, encoder: TextEncoder | None, progress: Progress) -> LabelOutcome:
    if data.coco is not None:
        return label_by_file(data)
    return apply_label_rule(data, encoder=encoder, threshold=settings.semantic_threshold, progress=progress)


def _emptiness(data: EvaluationSet) -> tuple[str, ...]:
    """Rates without anything to count are 1: that must not pass for a good result."""
    left_out = [f"{name} {data.counters[name]}" for name in ("invalid_json", "missing_size") if data.counters[name]]
    if not data.images:
        return (f"there is no image to evaluate, so no number means anything ({', '.join(left_out) or 'the file is empty'})",)
    return ()


def _losses(data: EvaluationSet) -> tuple[str, ...]:
    """Ground truth that cannot be used makes the set another one. Readers of COCO files say it themselves; unusable predictions are the model's, see health."""
    if data.coco is not None or not data.images:
        return ()
    num_invalid = sum(len(image.invalid_gt) for image in data.images)
    losses = (
        (num_invalid, f"{num_invalid} of {num_invalid + len(data.gt)} ground-truth objects (why: per_image.json)"),
        (data.counters["missing_size"], f"{data.counters['missing_size']} records without a usable size"),
        (data.counters["invalid_json"], f"{data.counters['invalid_json']} lines that are not a JSON object"),
    )
    left_out = ", ".join(text for number, text in losses if number)
    return (f"left out of all numbers: {left_out}",) if left_out else ()


def _with_intervals(result: EvaluationResult, settings: EvalSettings, progress: Progress) -> EvaluationResult:
    num_images = len(result.data.images)
    intervals = bootstrap_intervals(result, Resampling(num_images, settings.bootstrap, settings.bootstrap_seed), progress=progress)
    warnings = result.warnings if num_images >= FEW_IMAGES else (*result.warnings, f"intervals from {num_images} images are too narrow to be believed")
    return replace(result, intervals=intervals, warnings=warnings)


def _coco_part(data: EvaluationSet, labels: LabelPlan, scores: ScorePlan, settings: EvalSettings) -> list[CocoNumbers]:
    """Boxes, then segmentation when a prediction that takes part is a polygon."""
    parts = [coco_numbers(data, labels, scores.scores, iou_type="bbox", iou_thrs=settings.iou_thrs, with_error_costs=has_real_scores(scores))]
    has_polygons = bool((data.pred.is_polygon() & (labels.pred_category > 0)).any())
    if settings.with_segm and has_polygons:
        parts.append(coco_numbers(data, labels, scores.scores, iou_type="segm", iou_thrs=settings.iou_thrs))
    return parts


def _f1ish_part(data: EvaluationSet, outcome: LabelOutcome, overlaps: Overlaps, settings: EvalSettings) -> F1ishResult:
    return f1ish(data, outcome.plan, overlaps, similarity=outcome.similarity, thresholds=settings.f1ish_iou_thrs, scope=settings.f1ish_pred_scope)


def _protocol(data: EvaluationSet, settings: EvalSettings, scores: ScorePlan, similarity: LabelSimilarity) -> EvalProtocol:
    return EvalProtocol(
        prompt=settings.prompt,
        constraint=settings.constraint,
        label_rule=similarity.rule,
        label_threshold=similarity.threshold,
        label_encoder=similarity.encoder_name,
        pred_scope=settings.f1ish_pred_scope if settings.with_f1ish else None,
        pixel_mode=data.pixel_mode,
        score_mode=scores.mode,
        iou_thrs=settings.iou_thrs or IOU_THRESHOLDS,
        ap_rules="coco" if data.coco is None or data.coco.federation is None else "lvis",
        iou_of=None if data.coco is None else "masks" if data.coco.pred.masks else "boxes",
    )
