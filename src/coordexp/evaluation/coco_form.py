"""The set in COCO's form, as columns: what the COCO library evaluates, and what `coco_gt.json` and `coco_preds.json` hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordexp.evaluation.coco_source import CocoObjects
from coordexp.evaluation.columns import EvaluationSet, Floats, Ints, ObjectTable
from coordexp.evaluation.labels import LabelPlan


def coco_annotations(data: EvaluationSet, labels: LabelPlan) -> CocoObjects:
    """Ground truth: of COCO files every annotation, crowd regions too; of records every object, numbered from 1."""
    if data.coco is not None:
        return data.coco.gt
    return _objects(data.gt, category=labels.gt_category, scores=data.gt.scores)


def coco_results(data: EvaluationSet, labels: LabelPlan, scores: Floats) -> CocoObjects:
    """Predictions that have a category. Of COCO files also those that counting ignores: average precision has its own rules for them."""
    if data.coco is not None:
        return _results_of_files(data, labels, scores)
    rows = np.flatnonzero(labels.pred_category)
    return _objects(data.pred, category=labels.pred_category, scores=scores).take(rows)


def table_of(objects: CocoObjects) -> ObjectTable:
    """Objects of COCO files as every later stage reads them. Names are those of their categories."""
    x, y, width, height = objects.xywh.T
    return ObjectTable(
        image=objects.image,
        index=objects.index,
        desc=objects.category - 1,
        boxes=np.stack([x, y, x + width, y + height], axis=1),
        scores=objects.scores,
        masks=objects.masks,
        given_areas=objects.area,
    )


def category_ids(data: EvaluationSet, labels: LabelPlan) -> Ints:
    """[K] ids of `LabelPlan.categories`: those of the files, else from 1."""
    return np.arange(1, len(labels.categories) + 1) if data.coco is None else np.array(data.coco.category_ids, dtype=np.int64)


def xywh_of(boxes: Floats) -> Floats:
    """[N, 4] xyxy → x, y, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _results_of_files(data: EvaluationSet, labels: LabelPlan, scores: Floats) -> CocoObjects:
    assert data.coco is not None
    pred, counted = data.coco.pred, data.coco.counted
    all_scores, is_kept = pred.scores.copy(), np.ones(len(pred), dtype=np.bool_)
    all_scores[counted] = scores
    is_kept[counted] = labels.pred_category > 0
    results = replace(pred, scores=all_scores)
    return results if is_kept.all() else results.take(np.flatnonzero(is_kept))


def _objects(table: ObjectTable, *, category: Ints, scores: Floats) -> CocoObjects:
    return CocoObjects(
        image=table.image,
        index=np.arange(len(table)),
        ids=np.arange(1, len(table) + 1),
        category=category,
        xywh=xywh_of(table.boxes),
        area=table.areas,
        scores=scores,
        is_crowd=np.zeros(len(table), dtype=np.bool_),
        is_ignored=np.zeros(len(table), dtype=np.bool_),
    )
