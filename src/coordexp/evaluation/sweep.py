"""What a confidence threshold would do: f1_det, precision and recall of the predictions with score >= s, for every s.

Dropping predictions can free ground truths for others, so the matches of a subset are not a subset of the matches. Each threshold is therefore matched anew,
all of them in one pass: taking pairs by falling IoU makes the one stable matching of a strict ranking of the pairs, and deferred acceptance
(Gale & Shapley 1962) reaches it whatever the order in which predictions come (McVitie & Wilson 1971). When they come by falling score, each adds one match or
none, and what has been matched so far is the matching of the predictions so far. A prediction asks for each of its ground truths once: linear in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import Bools, Floats, Ints
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.overlaps import Overlaps

SWEEP_IOU = 0.50
MAX_POINTS = 101
"""Points that a sweep keeps; the best one is sought among all distinct scores."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Example: `OperatingPoint(score=0.41, precision=0.80, recall=0.62, f1=0.70, num_pred=5210)`: keep the predictions with score >= 0.41."""

    score: float
    precision: float
    recall: float
    f1: float
    """f1_det of what is kept."""
    num_pred: int
    """Predictions that are kept."""


@dataclass(frozen=True, slots=True)
class ConfidenceSweep:
    """Numbers of the predictions with score >= `scores[i]`, matched anew at each threshold as f1_det matches them."""

    iou: float
    scores: Floats
    """[S] thresholds, rising: at most `MAX_POINTS` of the scores that occur, at even steps of the number of predictions kept; ends and best included."""
    precision: Floats
    """[S]"""
    recall: Floats
    """[S]"""
    f1: Floats
    """[S]"""
    num_pred: Ints
    """[S]"""
    best: OperatingPoint
    """Highest f1; the higher score when two are equal."""
    best_by_class: tuple[OperatingPoint | None, ...]
    """By position in `LabelPlan.classes`, counting that class alone; None for a class that is never predicted, or that no ground truth has."""


@dataclass(frozen=True, slots=True)
class _Points:
    """Operating points of one group, or of several on end, by falling score within a group."""

    group: Ints
    score: Floats
    tp: Ints
    num_pred: Ints
    num_gt: Ints

    @property
    def f1(self) -> Floats:
        return 2 * self.tp / (self.num_pred + self.num_gt)

    @property
    def precision(self) -> Floats:
        return self.tp / self.num_pred

    @property
    def recall(self) -> Floats:
        return np.where(self.num_gt > 0, self.tp / np.maximum(self.num_gt, 1), 1.0)

    def take(self, places: Ints) -> _Points:
        return _Points(self.group[places], self.score[places], self.tp[places], self.num_pred[places], self.num_gt[places])

    def listed(self) -> list[OperatingPoint]:
        columns = (self.score, self.precision, self.recall, self.f1, self.num_pred)
        return [OperatingPoint(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def confidence_sweep(labels: LabelPlan, overlaps: Overlaps, scores: Floats) -> ConfidenceSweep:
    """Sweep the threshold over all scores [P], P > 0. `overlaps` must reach down to `SWEEP_IOU`."""
    pairs = overlaps.where((labels.pred_class[overlaps.pred] == labels.gt_class[overlaps.gt]) & (overlaps.iou >= SWEEP_IOU))
    adds_match = _adds_match(pairs, scores, num_gt=len(labels.gt_class))
    total = _points(np.zeros(len(scores), np.int64), scores, adds_match, num_gt=np.array([len(labels.gt_class)]))
    by_class = _points(labels.pred_class, scores, adds_match, num_gt=np.bincount(labels.gt_class, minlength=len(labels.classes)))
    best = int(np.argmax(total.f1))
    kept = total.take(_thinned(total.num_pred, best=best)[::-1])
    return ConfidenceSweep(
        iou=SWEEP_IOU,
        scores=kept.score,
        precision=kept.precision,
        recall=kept.recall,
        f1=kept.f1,
        num_pred=kept.num_pred,
        best=total.take(np.array([best])).listed()[0],
        best_by_class=_best_of_groups(by_class, num_groups=len(labels.classes)),
    )


def _adds_match(pairs: Overlaps, scores: Floats, *, num_gt: int) -> Bools:
    """[P]: does the prediction add a match to those of the predictions before it, by falling score? `pairs` stand in the order of greedy matching."""
    by_pred = np.argsort(pairs.pred, kind="stable")
    starts = np.searchsorted(pairs.pred[by_pred], np.arange(len(scores) + 1))
    ranks: list[int] = by_pred.tolist()
    gts: list[int] = pairs.gt[by_pred].tolist()
    following: list[int] = starts[:-1].tolist()
    ends: list[int] = starts[1:].tolist()
    holder, held_rank = [-1] * num_gt, [len(pairs)] * num_gt
    adds = np.zeros(len(scores), dtype=np.bool_)
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    for added in order:
        asking = added
        while asking >= 0 and following[asking] < ends[asking]:
            place = following[asking]
            following[asking] = place + 1
            gt, rank = gts[place], ranks[place]
            if rank < held_rank[gt]:
                asking, holder[gt], held_rank[gt] = holder[gt], asking, rank
        adds[added] = asking < 0
    return adds


def _points(group: Ints, scores: Floats, adds_match: Bools, *, num_gt: Ints) -> _Points:
    """One point for each distinct score of each group; `group` [P], `num_gt` by group."""
    order = np.lexsort((-scores, group))
    group, scores = group[order], scores[order]
    starts = np.searchsorted(group, np.arange(len(num_gt)))
    tp_before = np.concatenate([[0], np.cumsum(adds_match[order])])
    is_last = np.append((group[1:] != group[:-1]) | (scores[1:] != scores[:-1]), True)
    ends = np.flatnonzero(is_last)
    group_start = starts[group[ends]]
    return _Points(group[ends], scores[ends], tp_before[ends + 1] - tp_before[group_start], ends + 1 - group_start, num_gt[group[ends]])


def _thinned(num_pred: Ints, *, best: int) -> Ints:
    """Places of at most `MAX_POINTS` points, rising. `num_pred` rises."""
    if len(num_pred) <= MAX_POINTS:
        return np.arange(len(num_pred))
    steps: Floats = np.linspace(int(num_pred[0]), int(num_pred[-1]), MAX_POINTS - 1)
    return np.union1d(np.searchsorted(num_pred, steps), best).astype(np.int64)


def _best_of_groups(points: _Points, *, num_groups: int) -> tuple[OperatingPoint | None, ...]:
    order = np.lexsort((-points.score, -points.f1, points.group))
    order = order[points.num_gt[order] > 0]
    groups, first = np.unique(points.group[order], return_index=True)
    best: list[OperatingPoint | None] = [None] * num_groups
    for group, point in zip(groups.tolist(), points.take(order[first]).listed(), strict=True):
        best[group] = point
    return tuple(best)
