"""Predictions that counting ignores, because the ground truth of COCO files says too little about them. They are neither right nor false.

- Crowd: f1_det matches no crowd region. A prediction that matches no object and lies by half or more of its area inside a crowd region of its class is ignored.
- LVIS: a prediction of a category for which its image is not annotated (no object of it, not among `neg_category_ids`) is ignored; so is one that matches no
  object where the image's `not_exhaustive_category_ids` name its category, and one that overlaps a ground truth marked `ignore` by IoU 0.50 or more.

Matches are those of f1_det at IoU 0.50, its lowest threshold: an ignored prediction takes part in no threshold.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordexp.evaluation.coco import mask_overlaps
from coordexp.evaluation.coco_form import table_of
from coordexp.evaluation.coco_source import CocoObjects, CocoSource, Federation
from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints
from coordexp.evaluation.f1_det import IOU_THRESHOLDS
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.overlaps import box_iou_of_pairs, box_share_of_pairs, find_overlaps, match_greedily, pairs_in_image
from coordexp.evaluation.scores import ScorePlan

COVERED = 0.5
"""Share of a prediction's area inside a crowd region, and IoU with a ground truth marked `ignore`, from which on it is ignored."""


def leave_out_ignored(data: EvaluationSet, labels: LabelPlan, scores: ScorePlan) -> tuple[EvaluationSet, LabelPlan, ScorePlan]:
    """The set without ignored predictions, which are counted. Average precision has rules of its own and still sees them, by way of `data.coco`."""
    source = data.coco
    assert source is not None
    marked = source.gt.is_crowd if source.federation is None else source.gt.is_ignored
    if not marked.any() and source.federation is None:
        return data, labels, scores
    is_free = _is_unmatched(data, labels)
    is_covered = is_free & _is_covered(data, source.gt.take(np.flatnonzero(marked)))
    is_unjudged = np.zeros(len(data.pred), dtype=np.bool_) if source.federation is None else _is_unjudged(source, source.federation, is_free=is_free)
    is_ignored = is_covered | is_unjudged
    rows = np.flatnonzero(~is_ignored)
    counted = replace(
        data,
        pred=data.pred.take(rows),
        counters={**data.counters, "crowd_ignored": int(is_covered.sum()), "federation_ignored": int((is_unjudged & ~is_covered).sum())},
        coco=replace(source, pred=replace(source.pred, scores=scores.scores), counted=rows),
    )
    plan = replace(labels, pred_category=labels.pred_category[rows], pred_class=labels.pred_class[rows])
    return counted, plan, replace(scores, scores=scores.scores[rows])


def _is_unmatched(data: EvaluationSet, labels: LabelPlan) -> Bools:
    """[P] whether f1_det matches the prediction at no threshold."""
    overlaps = find_overlaps(data, minimum=IOU_THRESHOLDS[0])
    same_class = labels.pred_class[overlaps.pred] == labels.gt_class[overlaps.gt]
    matches = match_greedily(overlaps.where(same_class), num_pred=len(data.pred), num_gt=len(data.gt))
    is_free = np.ones(len(data.pred), dtype=np.bool_)
    is_free[matches.pred] = False
    return is_free


def _is_covered(data: EvaluationSet, regions: CocoObjects) -> Bools:
    """[P] whether a region of its category covers the prediction; one marked `ignore` that is no crowd has to overlap it."""
    is_covered = np.zeros(len(data.pred), dtype=np.bool_)
    with_regions = replace(data, gt=table_of(regions))
    for pred, region in pairs_in_image(with_regions):
        same = data.pred.desc[pred] == with_regions.gt.desc[region]
        pred, region = pred[same], region[same]
        share = _share(with_regions, pred, region, regions.is_crowd[region])
        is_covered[pred[share >= COVERED]] = True
    return is_covered


def _share(data: EvaluationSet, pred: Ints, region: Ints, is_crowd: Bools) -> Floats:
    """[K] of a crowd: the share of the prediction inside; else IoU. Of masks where both sides have one."""
    a, b = data.pred.boxes[pred], data.gt.boxes[region]
    shares = np.where(is_crowd, box_share_of_pairs(a, b), box_iou_of_pairs(a, b))
    for place, (row, region_row, crowd) in enumerate(zip(pred.tolist(), region.tolist(), is_crowd.tolist(), strict=True)):
        if row in data.pred.masks and region_row in data.gt.masks:
            shares[place] = mask_overlaps([data.pred.masks[row]], [data.gt.masks[region_row]], are_regions=crowd)[0, 0]
    return shares


def _is_unjudged(source: CocoSource, federation: Federation, *, is_free: Bools) -> Bools:
    """[P] LVIS: nobody looked for this category in this image, or the prediction is unmatched and not every such object is annotated."""
    num_categories = len(source.category_ids) + 1

    def keys(by_image: tuple[tuple[int, ...], ...]) -> Ints:
        return np.array([place * num_categories + number for place, numbers in enumerate(by_image) for number in numbers], dtype=np.int64)

    pred_key = source.pred.image * num_categories + source.pred.category
    judged = np.concatenate([source.gt.image * num_categories + source.gt.category, keys(federation.negative)])
    return ~np.isin(pred_key, judged) | (is_free & np.isin(pred_key, keys(federation.not_exhaustive)))
