"""f1_det, the headline number: detection as a set-matching task, with no scores.

A prediction and a ground truth can match when their labels are equal as normalized texts and their IoU reaches the threshold. Pairs are taken one to one by
falling IoU (ties: lower prediction, then lower ground truth). EVERY prediction counts, also one whose label no ground truth has.
tp, fp and fn are summed over the set (micro): precision = tp / (tp + fp), recall = tp / (tp + fn), f1 = 2 tp / (2 tp + fp + fn); 1 where the denominator is 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, Floats, Ints
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.overlaps import Overlaps, match_greedily

IOU_THRESHOLDS = tuple(round(0.50 + 0.05 * step, 2) for step in range(10))
"""0.50:0.05:0.95; `f1_det_miou` is the mean over all of them."""

SIZE_BOUNDS = (32.0**2, 96.0**2)
SIZE_NAMES = ("small", "medium", "large")
"""COCO's areas in square pixels: below 32², below 96², above."""

_COUNT_BUCKETS = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 9), (10, 19), (20, 39), (40, None))
"""Ground-truth objects in the image, both ends included."""


@dataclass(frozen=True, slots=True)
class DetCounts:
    """tp, fp, fn at each of `IOU_THRESHOLDS`, for one group of objects."""

    tp: Ints
    """[T]"""
    num_pred: int
    num_gt: int
    mean_iou: float | None
    """Mean IoU of the matches at the lowest threshold; None without a match."""

    def at(self, threshold: float) -> tuple[int, int, int]:
        """(tp, fp, fn) at one of the thresholds."""
        tp = int(self.tp[IOU_THRESHOLDS.index(threshold)])
        return tp, self.num_pred - tp, self.num_gt - tp

    def precision(self, threshold: float) -> float:
        return _ratio(self.at(threshold)[0], self.num_pred)

    def recall(self, threshold: float) -> float:
        return _ratio(self.at(threshold)[0], self.num_gt)

    def f1(self, threshold: float) -> float:
        return _ratio(2 * self.at(threshold)[0], self.num_pred + self.num_gt)

    @property
    def f1_miou(self) -> float:
        """Mean of f1 over the thresholds."""
        return float(np.mean([self.f1(threshold) for threshold in IOU_THRESHOLDS]))


NO_COUNTS = DetCounts(np.zeros(len(IOU_THRESHOLDS), dtype=np.int64), num_pred=0, num_gt=0, mean_iou=None)
"""Of a group without objects."""


@dataclass(frozen=True, slots=True)
class DetResult:
    """f1_det of a set with its breakdowns."""

    total: DetCounts
    by_class: tuple[DetCounts, ...]
    """By position in `LabelPlan.classes`."""
    by_size: dict[str, DetCounts]
    """A match belongs to the size of its ground truth, an unmatched prediction to its own."""
    by_num_objects: dict[str, DetCounts]
    """By ground-truth objects in the image; empty buckets are absent."""
    per_image: tuple[DetCounts, ...]
    matches: Overlaps
    """Matched rows with IoU >= the lowest threshold."""


def f1_det(data: EvaluationSet, labels: LabelPlan, overlaps: Overlaps) -> DetResult:
    """Match within classes and count. `overlaps` must reach down to the lowest threshold."""
    same_class = labels.pred_class[overlaps.pred] == labels.gt_class[overlaps.gt]
    candidates = overlaps.where(same_class & (overlaps.iou >= IOU_THRESHOLDS[0]))
    matches = match_greedily(candidates, num_pred=len(data.pred), num_gt=len(data.gt))
    groups = object_groups(data, labels, matches)
    counts = {name: _count(matches, group) for name, group in groups.items()}
    has_image = np.isin(np.arange(len(_COUNT_BUCKETS)), _bucket_of(np.bincount(data.gt.image, minlength=len(data.images))))
    return DetResult(
        total=counts["total"][0],
        by_class=counts["class"],
        by_size=dict(zip(groups["size"].names, counts["size"], strict=True)),
        by_num_objects={name: counts["num_objects"][place] for place, name in enumerate(groups["num_objects"].names) if has_image[place]},
        per_image=counts["image"],
        matches=matches,
    )


@dataclass(frozen=True, slots=True)
class ObjectGroups:
    """A partition of all objects. Both sides of a match are in the same group."""

    names: tuple[str, ...]
    pred: Ints
    """[P] position in `names`."""
    gt: Ints
    """[G]"""


def object_groups(data: EvaluationSet, labels: LabelPlan, matches: Overlaps) -> dict[str, ObjectGroups]:
    """What results are broken down by: `total` (one group), `class`, `size`, `num_objects` (ground truths in the image), `image`."""
    pred_size, gt_size = _size_of(data.pred.areas), _size_of(data.gt.areas)
    pred_size[matches.pred] = gt_size[matches.gt]
    bucket = _bucket_of(np.bincount(data.gt.image, minlength=len(data.images)))
    return {
        "total": ObjectGroups(("all",), np.zeros(len(data.pred), np.int64), np.zeros(len(data.gt), np.int64)),
        "class": ObjectGroups(labels.classes, labels.pred_class, labels.gt_class),
        "size": ObjectGroups(SIZE_NAMES, pred_size, gt_size),
        "num_objects": ObjectGroups(tuple(map(_bucket_name, range(len(_COUNT_BUCKETS)))), bucket[data.pred.image], bucket[data.gt.image]),
        "image": ObjectGroups(tuple(image.file_name for image in data.images), data.pred.image, data.gt.image),
    }


def det_metrics(counts: DetCounts) -> dict[str, float]:
    """The metric keys of one group. Example: `{"f1_det@0.50": 0.71, …, "f1_det_miou": 0.52, "f1_det@0.50_precision": 0.74, …}`"""
    metrics = {f"f1_det@{threshold:.2f}": counts.f1(threshold) for threshold in IOU_THRESHOLDS}
    metrics["f1_det_miou"] = counts.f1_miou
    for threshold in (0.50, 0.75, 0.95):
        tp, fp, fn = counts.at(threshold)
        key = f"f1_det@{threshold:.2f}"
        metrics |= {f"{key}_precision": counts.precision(threshold), f"{key}_recall": counts.recall(threshold)}
        metrics |= {f"{key}_tp": float(tp), f"{key}_fp": float(fp), f"{key}_fn": float(fn)}
    if counts.mean_iou is not None:
        metrics["mean_matched_iou"] = counts.mean_iou
    return metrics


def _count(matches: Overlaps, groups: ObjectGroups) -> tuple[DetCounts, ...]:
    """Counts by group."""
    num_groups = len(groups.names)
    group = groups.gt[matches.gt]
    bounds = np.asarray(IOU_THRESHOLDS)
    tp: Ints = np.stack([np.bincount(group[matches.iou >= bound], minlength=num_groups) for bound in bounds], axis=1)
    iou_sum = np.zeros(num_groups)
    np.add.at(iou_sum, group, matches.iou)
    num_pred, num_gt = np.bincount(groups.pred, minlength=num_groups).tolist(), np.bincount(groups.gt, minlength=num_groups).tolist()
    means = [total / count if count else None for total, count in zip(iou_sum.tolist(), tp[:, 0].tolist(), strict=True)]
    return tuple(DetCounts(tp[place], num_pred[place], num_gt[place], means[place]) for place in range(num_groups))


def _size_of(areas: Floats) -> Ints:
    return np.searchsorted(np.asarray(SIZE_BOUNDS), areas, side="right").astype(np.int64)


def _bucket_of(num_gt: Ints) -> Ints:
    firsts = np.array([first for first, _ in _COUNT_BUCKETS])
    return (np.searchsorted(firsts, num_gt, side="right") - 1).astype(np.int64)


def _bucket_name(place: int) -> str:
    first, last = _COUNT_BUCKETS[place]
    if last is None:
        return f"{first}+"
    return str(first) if first == last else f"{first}-{last}"


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
