"""NMS-AP for open vocabularies: AP after class-agnostic non-maximum suppression, so that one object said under several names counts once.

Plain AP looks at each category by itself: a detector that gives the same box every name it can think of loses nothing in the categories where it is right.
Definition of OVDEval (Yao et al. 2023, "How to Evaluate the Generalization of Detection?").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordexp.evaluation.coco import overall_ap
from coordexp.evaluation.columns import Bools, EvaluationSet, Floats
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.pred_overlaps import PredOverlaps

NMS_IOU = 0.50


@dataclass(frozen=True, slots=True)
class NmsAp:
    """Example: `NmsAp(ap=0.31, ap50=0.47, num_removed=1204)`"""

    ap: float
    """-1 where undefined."""
    ap50: float
    num_removed: int
    """Predictions that a higher scoring one of the same image covers with IoU > 0.50."""


def nms_ap(data: EvaluationSet, labels: LabelPlan, scores: Floats, pairs: PredOverlaps, *, iou_thrs: Sequence[float] | None = None) -> NmsAp:
    """AP of the predictions that survive, among those that have a category. `pairs` must hold all with IoU > `NMS_IOU`; `iou_thrs` as in `coco_numbers`."""
    is_removed = suppressed(pairs, scores, takes_part=labels.pred_category > 0)
    survivors = replace(labels, pred_category=np.where(is_removed, 0, labels.pred_category))
    ap, ap50 = overall_ap(data, survivors, scores, iou_thrs=iou_thrs)
    return NmsAp(ap, ap50, int(is_removed.sum()))


def suppressed(pairs: PredOverlaps, scores: Floats, *, takes_part: Bools) -> Bools:
    """[P]: by falling score (ties: file order), each prediction that still stands removes those that it overlaps with IoU > `NMS_IOU`."""
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    keep = (pairs.iou > NMS_IOU) & takes_part[pairs.first] & takes_part[pairs.second]
    first, second = pairs.first[keep], pairs.second[keep]
    is_first_higher = rank[first] < rank[second]
    higher, lower = np.where(is_first_higher, first, second), np.where(is_first_higher, second, first)
    order = np.argsort(rank[higher], kind="stable")
    is_removed = bytearray(len(scores))
    for winner, loser in zip(higher[order].tolist(), lower[order].tolist(), strict=True):
        if not is_removed[winner]:
            is_removed[loser] = 1
    return np.frombuffer(is_removed, dtype=np.bool_)
