"""COCO numbers and mask overlaps. The only module that touches the COCO library; what leaves it is numpy and plain dictionaries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import hotcoco
import numpy as np
from hotcoco import mask as hotmask

from coordexp.evaluation.coco_form import coco_annotations, coco_results
from coordexp.evaluation.coco_source import CocoObjects, Federation, Rle
from coordexp.evaluation.columns import EvaluationSet, Floats, ImageRow, Ints, ObjectTable
from coordexp.evaluation.labels import LabelPlan
from coordexp.geometry.polygons import box_to_ring

MAX_DETS = (1, 10, 100)
AREA_LABELS = ("all", "small", "medium", "large")
SUMMARY_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
LVIS_SUMMARY_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300")
UNDEFINED = -1.0
CURVE_IOUS = (0.50, 0.75)
"""IoU thresholds whose precision-recall curves are kept."""

_BEYOND_EVERY_SIZE = 1e11
"""An area outside of every range, also that of all sizes (up to 1e10): LVIS ignores such a ground truth, as it does one marked `ignore`."""


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
    With a federation as LVISEval defines them: at most 300 predictions of an image, false ones only where the image is annotated for their category.

    `scores` [P] are those of `data.pred`. Predictions without a category take no part. `iou_thrs` replaces 0.50:0.05:0.95.
    """
    if not labels.categories:
        metrics = {f"{iou_type}_{key}": UNDEFINED for key in SUMMARY_KEYS}
        return CocoNumbers(metrics, np.full(0, UNDEFINED))
    evaluator = build_evaluator(data, labels, scores, iou_type=iou_type, iou_thrs=iou_thrs)
    curves = _accumulated(evaluator)
    thresholds = np.asarray(evaluator.params.iou_thrs)
    numbers = _summarize(curves, thresholds, data.coco.federation if data.coco else None, prefix=iou_type)
    has_costs = with_error_costs and 0.5 in thresholds  # without it the library would take another threshold for the base
    return replace(numbers, error_costs=_error_costs(evaluator) if has_costs else None)


def overall_ap(data: EvaluationSet, labels: LabelPlan, scores: Floats, *, iou_thrs: Sequence[float] | None = None) -> tuple[float, float]:
    """(AP, AP50) of boxes of all areas, as in `coco_numbers`, without the rest; -1 where undefined."""
    if not labels.categories:
        return UNDEFINED, UNDEFINED
    evaluator = build_evaluator(data, labels, scores, iou_type="bbox", iou_thrs=iou_thrs)
    evaluator.params.area_rng, evaluator.params.area_rng_lbl = evaluator.params.area_rng[:1], evaluator.params.area_rng_lbl[:1]
    evaluator.params.max_dets = evaluator.params.max_dets[-1:]
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
    """The library's evaluator, before its first step: what it matches is decided here, for the numbers and for the matches behind them.

    It knows categories by their numbers from 1, and images by `library_ids`.
    """
    federation = data.coco.federation if data.coco is not None else None
    image_ids = library_ids(data)
    gt, pred = coco_annotations(data, labels), coco_results(data, labels, scores)
    if federation is not None:  # LVISEval takes no object without area
        gt, pred = (objects.take(np.flatnonzero(objects.area > 0)) for objects in (gt, pred))
    with_masks = iou_type == "segm"
    truth = hotcoco.COCO.from_arrays(
        _images(data, image_ids, federation),
        _categories(len(labels.categories), federation),
        image_ids[gt.image],
        gt.category,
        gt.xywh,
        ids=np.arange(1, len(gt) + 1),
        area=gt.area if federation is None else np.where(gt.is_ignored, _BEYOND_EVERY_SIZE, gt.area),
        iscrowd=gt.is_crowd,
        segmentation=_segmentations(data, gt, data.gt) if with_masks else None,
    )
    table = np.concatenate([image_ids[pred.image, None], pred.xywh, pred.scores[:, None], pred.category[:, None]], axis=1)
    results = truth.load_res(table, segmentation=_segmentations(data, pred, data.pred) if with_masks else None)
    if (pred.area != pred.xywh[:, 2] * pred.xywh[:, 3]).any():
        results.update_anns(ids=np.arange(1, len(pred) + 1), area=pred.area)  # results without a box have the area of their mask
    evaluator = hotcoco.COCOeval(truth, results, iou_type, lvis_style=federation is not None)
    if iou_thrs is not None:
        evaluator.params.iou_thrs = list(iou_thrs)
    return evaluator


def library_ids(data: EvaluationSet) -> Ints:
    """[I] the id under which the evaluator knows each image: its own, or its rank where ids of a file are negative or too large for a float."""
    ids = np.array([image.image_id for image in data.images], dtype=np.int64)
    is_usable = not len(ids) or (ids.min() >= 0 and ids.max() < 2**53)
    return ids if is_usable else np.argsort(np.argsort(ids)).astype(np.int64)


def _images(data: EvaluationSet, image_ids: Ints, federation: Federation | None) -> list[dict[str, Any]]:
    ids: list[int] = image_ids.tolist()
    images: list[dict[str, Any]] = [
        {"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height} for image_id, image in zip(ids, data.images, strict=True)
    ]
    if federation is not None:
        for image, negative, not_exhaustive in zip(images, federation.negative, federation.not_exhaustive, strict=True):
            image |= {"neg_category_ids": list(negative), "not_exhaustive_category_ids": list(not_exhaustive)}
    return images


def _categories(count: int, federation: Federation | None) -> list[dict[str, Any]]:
    # the library takes no part in naming: it would complain about an empty name, which a user may have
    categories: list[dict[str, Any]] = [{"id": number, "name": str(number)} for number in range(1, count + 1)]
    if federation is not None:
        for category, frequency in zip(categories, federation.frequency, strict=True):
            category["frequency"] = frequency
    return categories


def mask_iou_matrix(data: EvaluationSet, image: int, *, pred_rows: Sequence[int], gt_rows: Sequence[int]) -> Floats:
    """[num_pred, num_gt] overlap of pixel masks of one image; a box counts as the polygon of its corners, as in COCO."""
    size = data.images[image]
    pred = [_mask_of(data.pred, row, size) for row in pred_rows]
    gt = [_mask_of(data.gt, row, size) for row in gt_rows]
    return mask_overlaps(pred, gt, are_regions=False)


def mask_overlaps(pred: Sequence[Rle], gt: Sequence[Rle], *, are_regions: bool) -> Floats:
    """[num_pred, num_gt] IoU; with regions, the share of the prediction that the region covers."""
    if not pred or not gt:
        return np.zeros((len(pred), len(gt)))
    return np.asarray(hotmask.iou(pred, gt, [are_regions] * len(gt)), dtype=np.float64)


def encode_segmentation(segmentation: object, *, width: int, height: int) -> Rle:
    """The mask of a COCO segmentation: polygons, all parts together, or run lengths of either kind.

    Raises:
        ValueError: it is of another form, or of another size than the image.
    """
    try:
        if isinstance(segmentation, list):
            parts = hotmask.frPyObjects(cast("list[list[float]]", segmentation), height, width)
            return parts[0] if len(parts) == 1 else hotmask.merge(parts)
        mask = hotmask.frPyObjects(cast("Rle", segmentation), height, width)
        hotmask.area(mask)
    except (TypeError, OverflowError, KeyError, IndexError) as error:
        raise ValueError(f"neither polygons nor run lengths ({error})") from error
    if tuple(mask["size"]) != (height, width):
        raise ValueError(f"its size {list(mask['size'])} is not that of the image, [{height}, {width}]")
    return mask


def mask_area(mask: Rle) -> float:
    """Pixels inside."""
    return float(hotmask.area(mask))


def mask_box(mask: Rle) -> tuple[float, float, float, float]:
    """x, y, width, height of the pixels inside."""
    x, y, width, height = hotmask.to_bbox(mask).tolist()
    return x, y, width, height


def _mask_of(table: ObjectTable, row: int, image: ImageRow) -> Rle:
    """The mask of a row; a polygon or box is rasterized once."""
    mask = table.masks.get(row) or table.outlines.get(row)
    if mask is None:
        mask = table.outlines[row] = hotmask.fr_poly(flat_ring(table, row), image.height, image.width)
    return mask


def _segmentations(data: EvaluationSet, objects: CocoObjects, table: ObjectTable) -> list[Any]:
    """By row of `objects`: masks, and for boxes their outline."""
    if data.coco is not None:
        corners: list[list[float]] = objects.xywh.tolist()
        return [objects.masks.get(row) or [[x, y, x, y + height, x + width, y + height, x + width, y]] for row, (x, y, width, height) in enumerate(corners)]
    rows: list[int] = objects.index.tolist()
    images: list[int] = objects.image.tolist()
    return [_mask_of(table, row, data.images[image]) for row, image in zip(rows, images, strict=True)]


def flat_ring(table: ObjectTable, row: int) -> list[float]:
    """The outline of a polygon, or of the corners of a box."""
    ring = table.polygons.get(row)
    return list(box_to_ring(table.boxes[row].tolist())) if ring is None else ring.tolist()


def _summarize(curves: Mapping[str, Floats], thresholds: Floats, federation: Federation | None, *, prefix: str) -> CocoNumbers:
    """`precision` [T, R, K, A, M] and `recall` [T, K, A, M], -1 where undefined; means leave those out, as COCOeval.summarize and LVISEval.summarize do."""
    precision, recall = curves["precision"][..., -1], curves["recall"]

    def ap(threshold: float | None = None, area: int = 0) -> float:
        chosen = precision if threshold is None else precision[thresholds == threshold]
        return _mean_defined(chosen[..., area])

    values = [ap(), ap(0.5), ap(0.75), ap(area=1), ap(area=2), ap(area=3)]
    if federation is None:
        values += [_mean_defined(recall[..., 0, cap]) for cap in range(len(MAX_DETS))]
        keys = SUMMARY_KEYS
    else:
        frequency = np.array(federation.frequency)
        values += [_mean_defined(precision[:, :, frequency == name, 0]) for name in ("r", "c", "f")]
        values += [_mean_defined(recall[..., 0, -1])]
        keys = LVIS_SUMMARY_KEYS
    values += [_mean_defined(recall[..., area, -1]) for area in (1, 2, 3)]
    metrics = {f"{prefix}_{key}": value for key, value in zip(keys, values, strict=True)}
    per_category = np.array([_mean_defined(precision[:, :, k, 0]) for k in range(precision.shape[2])])
    by_iou = {iou: precision[np.flatnonzero(thresholds == iou)[0], :, :, 0].copy() for iou in CURVE_IOUS if iou in thresholds}
    return CocoNumbers(metrics, per_category, by_iou)


def _mean_defined(values: Floats) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else UNDEFINED
