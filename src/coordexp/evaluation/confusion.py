"""Which class is taken for which, with background: matches regardless of class, then compares labels. Sparse: only pairs that occur."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, Ints
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.overlaps import Overlaps, match_greedily

CONFUSION_IOU = 0.50
BACKGROUND = -1
"""In place of a class: nothing there (row), nothing said (column)."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """A class taken for another one. Example: `Confusion(gt_class=4, pred_class=7, count=31, share=0.12)`: 12 % of class 4 are called class 7."""

    gt_class: int
    pred_class: int
    count: int
    share: float
    """Of the ground truths of `gt_class`."""


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Entries by falling count. Classes are positions in `LabelPlan.classes`, or `BACKGROUND`.

    A row's sum is the number of ground truths of the class, a column's sum the number of predictions of it.
    """

    iou: float
    gt_class: Ints
    """[N] row; `BACKGROUND`: the prediction matches nothing."""
    pred_class: Ints
    """[N] column; `BACKGROUND`: the ground truth is matched by nothing."""
    count: Ints
    """[N] > 0"""
    top: tuple[Confusion, ...]
    """Class taken for another class, most frequent first."""


def confusion_matrix(data: EvaluationSet, labels: LabelPlan, overlaps: Overlaps) -> ConfusionMatrix:
    """Match all classes with each other and count. `overlaps` must reach down to `CONFUSION_IOU`."""
    matches = match_greedily(_candidates(data, labels, overlaps), num_pred=len(data.pred), num_gt=len(data.gt))
    is_missed, is_invented = np.ones(len(data.gt), np.bool_), np.ones(len(data.pred), np.bool_)
    is_missed[matches.gt] = is_invented[matches.pred] = False
    missed, invented = labels.gt_class[is_missed], labels.pred_class[is_invented]
    rows = np.concatenate([labels.gt_class[matches.gt], missed, np.full(len(invented), BACKGROUND)])
    columns = np.concatenate([labels.pred_class[matches.pred], np.full(len(missed), BACKGROUND), invented])
    width = len(labels.classes) + 1
    cells, count = np.unique((rows + 1) * width + columns + 1, return_counts=True)
    order = np.argsort(-count, kind="stable")
    gt_class, pred_class, count = cells[order] // width - 1, cells[order] % width - 1, count[order].astype(np.int64)
    num_gt = np.bincount(labels.gt_class, minlength=len(labels.classes))
    return ConfusionMatrix(CONFUSION_IOU, gt_class, pred_class, count, _confusions(gt_class, pred_class, count, num_gt))


def _candidates(data: EvaluationSet, labels: LabelPlan, overlaps: Overlaps) -> Overlaps:
    """Pairs in the order of matching: falling IoU; of equal ones those with equal labels first, since an object said under two names has both boxes alike."""
    pairs = overlaps.where(overlaps.iou >= CONFUSION_IOU)
    differs = labels.pred_class[pairs.pred] != labels.gt_class[pairs.gt]
    order = np.lexsort((pairs.gt, pairs.pred, differs, -pairs.iou, data.gt.image[pairs.gt]))
    return Overlaps(pairs.pred[order], pairs.gt[order], pairs.iou[order])


def _confusions(gt_class: Ints, pred_class: Ints, count: Ints, num_gt: Ints) -> tuple[Confusion, ...]:
    places = np.flatnonzero((gt_class != pred_class) & (gt_class != BACKGROUND) & (pred_class != BACKGROUND))
    share = count[places] / num_gt[gt_class[places]]
    rows = zip(gt_class[places].tolist(), pred_class[places].tolist(), count[places].tolist(), share.tolist(), strict=True)
    return tuple(Confusion(*row) for row in rows)
