"""COCO numbers and mask overlaps. The only module that touches the COCO library; what leaves it is numpy and plain dictionaries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import hotcoco
import numpy as np
from hotcoco import mask as hotmask

from coordexp.evaluation.columns import EvaluationSet, Floats, ImageRow, Ints, ObjectTable
from coordexp.evaluation.labels import LabelPlan
from coordexp.geometry.polygons import box_to_ring

MAX_DETS = (1, 10, 100)
AREA_LABELS = ("all", "small", "medium", "large")
SUMMARY_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
UNDEFINED = -1.0
CURVE_IOUS = (0.50, 0.75)
"""IoU thresholds whose precision-recall curves are kept."""


@dataclass(frozen=True, slots=True)
class ErrorCosts:
    """What mending each type of error would add to AP50 (TIDE: foreground from IoU 0.50, background below 0.10)."""

    base_ap: float
    delta_ap: Mapping[str, float]
    """`Cls`, `Loc`, `Both`, `Dupe`, `Bkg`, `Miss`, and others."""


@dataclass(frozen=True, slots=True)
class CocoNumbers:
    """Results of one IoU type. Example: `metrics["bbox_AP50"] == 0.61`, `per_category[0] == 0.55`"""

    metrics: dict[str, float]
    per_category: Floats
    """[K] AP of each category; -1 without ground truth."""
    curves: Mapping[float, Floats] = field(default_factory=dict[float, Floats])
    """Threshold of `CURVE_IOUS` → [101, K] interpolated precision at recall 0.00, 0.01, …, 1.00 over all areas; -1 without ground truth."""
    error_costs: ErrorCosts | None = None
    """None when they were not asked for, or 0.50 is not among the thresholds."""


def coco_numbers(
    data: EvaluationSet, labels: LabelPlan, scores: Floats, *, iou_type: str, iou_thrs: Sequence[float] | None = None, with_error_costs: bool = False
) -> CocoNumbers:
    """Average precision and recall as COCOeval defines them: greedy by score, at most 100 predictions of a category in an image, 101 recall points.

    `scores` [P] are those of `data.pred`. Predictions without a category take no part. `iou_thrs` replaces 0.50:0.05:0.95.
    """
    num_categories = len(labels.categories)
    if not num_categories:
        metrics = {f"{iou_type}_{key}": UNDEFINED for key in SUMMARY_KEYS}
        return CocoNumbers(metrics, np.full(0, UNDEFINED))
    evaluator = build_evaluator(data, labels, scores, iou_type=iou_type, iou_thrs=iou_thrs)
    curves = _accumulated(evaluator)
    thresholds = np.asarray(evaluator.params.iou_thrs)
    numbers = _summarize(curves["precision"], curves["recall"], thresholds, prefix=iou_type)
    has_costs = with_error_costs and 0.5 in thresholds  # without it the library would take another threshold for the base
    return replace(numbers, error_costs=_error_costs(evaluator) if has_costs else None)


def overall_ap(data: EvaluationSet, labels: LabelPlan, scores: Floats, *, iou_thrs: Sequence[float] | None = None) -> tuple[float, float]:
    """(AP, AP50) of boxes of all areas, as in `coco_numbers`, without the rest; -1 where undefined."""
    if not labels.categories:
        return UNDEFINED, UNDEFINED
    evaluator = build_evaluator(data, labels, scores, iou_type="bbox", iou_thrs=iou_thrs)
    evaluator.params.area_rng, evaluator.params.area_rng_lbl = evaluator.params.area_rng[:1], evaluator.params.area_rng_lbl[:1]
    evaluator.params.max_dets = list(MAX_DETS[-1:])
    precision = _accumulated(evaluator)["precision"]
    return _mean_defined(precision), _mean_defined(precision[np.asarray(evaluator.params.iou_thrs) == 0.5])


def _accumulated(evaluator: hotcoco.COCOeval) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that thresholds or areas differ from the default is what was asked for
        evaluator.evaluate()
        evaluator.accumulate()
    return cast("dict[str, Any]", evaluator.eval)


def _error_costs(evaluator: hotcoco.COCOeval) -> ErrorCosts:
    found = evaluator.tide_errors(pos_thr=0.5, bg_thr=0.1)
    return ErrorCosts(base_ap=found["ap_base"], delta_ap=found["delta_ap"])


def build_evaluator(data: EvaluationSet, labels: LabelPlan, scores: Floats, *, iou_type: str, iou_thrs: Sequence[float] | None = None) -> hotcoco.COCOeval:
    """The library's evaluator, before its first step: what it matches is decided here, for the numbers and for the matches behind them."""
    truth = _ground_truth(data, labels, with_segmentation=iou_type == "segm")
    evaluator = hotcoco.COCOeval(truth, _results(truth, data, labels, scores, with_segmentation=iou_type == "segm"), iou_type)
    if iou_thrs is not None:
        evaluator.params.iou_thrs = list(iou_thrs)
    return evaluator


def mask_iou_matrix(data: EvaluationSet, image: int, *, pred_rows: range, gt_rows: range) -> Floats:
    """[num_pred, num_gt] overlap of pixel masks of one image; a box counts as the polygon of its corners, as in COCO."""
    size = data.images[image]
    pred = [_encode(data.pred, row, size) for row in pred_rows]
    gt = [_encode(data.gt, row, size) for row in gt_rows]
    if not pred or not gt:
        return np.zeros((len(pred), len(gt)))
    return np.asarray(hotmask.iou(pred, gt, [False] * len(gt)), dtype=np.float64)


def _encode(table: ObjectTable, row: int, image: ImageRow) -> dict[str, Any]:
    return hotmask.fr_poly(flat_ring(table, row), image.height, image.width)


def _xywh(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _segmentation(table: ObjectTable, rows: Ints) -> list[dict[str, Any] | list[list[float]]]:
    return [[flat_ring(table, row)] for row in rows.tolist()]


def flat_ring(table: ObjectTable, row: int) -> list[float]:
    """The outline of a polygon, or of the corners of a box."""
    ring = table.polygons.get(row)
    return list(box_to_ring(table.boxes[row].tolist())) if ring is None else ring.tolist()


def _ground_truth(data: EvaluationSet, labels: LabelPlan, *, with_segmentation: bool) -> hotcoco.COCO:
    rows = np.arange(len(data.gt))
    image_ids = np.array([image.image_id for image in data.images], dtype=np.int64)
    images = [{"id": image.image_id, "file_name": image.file_name, "width": image.width, "height": image.height} for image in data.images]
    # the library takes no part in naming: it would complain about an empty name, which a user may have
    categories = [{"id": number, "name": str(number)} for number in range(1, len(labels.categories) + 1)]
    return hotcoco.COCO.from_arrays(
        images,
        categories,
        image_ids[data.gt.image],
        labels.gt_category,
        _xywh(data.gt.boxes),
        ids=rows + 1,
        area=data.gt.areas,
        segmentation=_segmentation(data.gt, rows) if with_segmentation else None,
    )


def _results(truth: hotcoco.COCO, data: EvaluationSet, labels: LabelPlan, scores: Floats, *, with_segmentation: bool) -> hotcoco.COCO:
    rows = np.flatnonzero(labels.pred_category)
    image_ids = np.array([image.image_id for image in data.images], dtype=np.int64)
    boxes = _xywh(data.pred.boxes[rows])
    table = np.concatenate([image_ids[data.pred.image[rows], None], boxes, scores[rows, None], labels.pred_category[rows, None]], axis=1)
    return truth.load_res(table, segmentation=_segmentation(data.pred, rows) if with_segmentation else None)


def _summarize(precision: Floats, recall: Floats, thresholds: Floats, *, prefix: str) -> CocoNumbers:
    """`precision` [T, R, K, A, M] and `recall` [T, K, A, M], -1 where undefined; means leave those out, as COCOeval.summarize does."""

    def ap(area: int, threshold: float | None = None) -> float:
        chosen = precision if threshold is None else precision[thresholds == threshold]
        return _mean_defined(chosen[..., area, -1])

    def ar(area: int, max_dets: int) -> float:
        return _mean_defined(recall[..., area, max_dets])

    values = (ap(0), ap(0, 0.5), ap(0, 0.75), ap(1), ap(2), ap(3), ar(0, 0), ar(0, 1), ar(0, 2), ar(1, 2), ar(2, 2), ar(3, 2))
    metrics = {f"{prefix}_{key}": value for key, value in zip(SUMMARY_KEYS, values, strict=True)}
    per_category = np.array([_mean_defined(precision[:, :, k, 0, -1]) for k in range(precision.shape[2])])
    curves = {iou: precision[np.flatnonzero(thresholds == iou)[0], :, :, 0, -1].copy() for iou in CURVE_IOUS if iou in thresholds}
    return CocoNumbers(metrics, per_category, curves)


def _mean_defined(values: Floats) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else UNDEFINED
