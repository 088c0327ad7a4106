"""Which predictions overlap which ground truths, over the whole set at once. Box IoU is vectorized over all pairs; polygons go through pixel masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.coco import mask_iou_matrix
from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints

_PAIRS_AT_ONCE = 1_000_000
"""Bounds the memory of the pair arrays, some 100 bytes a pair."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pairs with IoU >= the asked minimum, by image, then by (-iou, pred, gt): the order in which greedy matching takes them."""

    pred: Ints
    """[K] row of the prediction table."""
    gt: Ints
    """[K] row of the ground-truth table."""
    iou: Floats
    """[K]"""

    def __len__(self) -> int:
        return int(self.iou.shape[0])

    def where(self, keep: Bools) -> Overlaps:
        """The pairs that `keep` [K] marks, in the same order."""
        return Overlaps(self.pred[keep], self.gt[keep], self.iou[keep])


def find_overlaps(data: EvaluationSet, *, minimum: float) -> Overlaps:
    """All pairs inside an image with IoU >= minimum > 0, of any classes. Mask IoU where either side is a polygon, else box IoU."""
    gt_ranges, pred_ranges = data.gt.ranges(len(data.images)), data.pred.ranges(len(data.images))
    has_polygons = bool(data.gt.is_polygon().any() or data.pred.is_polygon().any())
    parts: list[Overlaps] = []
    for pred, gt in pairs_in_image(data):
        iou = box_iou_of_pairs(data.pred.boxes[pred], data.gt.boxes[gt])
        if has_polygons:
            _replace_by_mask_iou(data, pred, gt, iou, gt_ranges=gt_ranges, pred_ranges=pred_ranges)
        keep = iou >= minimum
        parts.append(Overlaps(pred[keep], gt[keep], iou[keep]))
    pred, gt, iou = (np.concatenate([getattr(part, name) for part in parts]) if parts else np.empty(0) for name in ("pred", "gt", "iou"))
    pred, gt = pred.astype(np.int64), gt.astype(np.int64)
    order = np.lexsort((gt, pred, -iou, data.gt.image[gt]))
    return Overlaps(pred[order], gt[order], iou[order])


def pairs_in_image(data: EvaluationSet) -> Iterator[tuple[Ints, Ints]]:
    """Every (prediction row, ground-truth row) inside the same image, in bounded portions."""
    gt_ranges, pred_ranges = data.gt.ranges(len(data.images)), data.pred.ranges(len(data.images))
    for first, last in _chunks(np.diff(gt_ranges) * np.diff(pred_ranges)):
        yield _pairs_of_images(gt_ranges, pred_ranges, first, last)


def match_greedily(overlaps: Overlaps, *, num_pred: int, num_gt: int) -> Overlaps:
    """One to one: of the pairs in order, each is taken when both sides are free.

    The pairs come by falling IoU, so the matches at a higher threshold are exactly those with a higher IoU: one pass serves all thresholds.
    """
    pred_taken, gt_taken = bytearray(num_pred), bytearray(num_gt)
    taken: list[int] = []
    for place, (pred, gt) in enumerate(zip(overlaps.pred.tolist(), overlaps.gt.tolist(), strict=True)):
        if not pred_taken[pred] and not gt_taken[gt]:
            pred_taken[pred] = gt_taken[gt] = 1
            taken.append(place)
    places = np.array(taken, dtype=np.int64)
    return Overlaps(overlaps.pred[places], overlaps.gt[places], overlaps.iou[places])


def box_iou_of_pairs(a: Floats, b: Floats) -> Floats:
    """[K] IoU of the K pairs (a[i], b[i]); xyxy boxes [K, 4]. 0 where they share no area."""
    common = _common_areas(a, b)
    union = _areas(a) + _areas(b) - common
    return np.divide(common, union, out=np.zeros(len(common)), where=common > 0)


def box_share_of_pairs(a: Floats, b: Floats) -> Floats:
    """[K] share of the area of a[i] that lies in b[i]; 0 where they share none."""
    common = _common_areas(a, b)
    return np.divide(common, _areas(a), out=np.zeros(len(common)), where=common > 0)


def _common_areas(a: Floats, b: Floats) -> Floats:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    np.maximum(sides, 0.0, out=sides)
    return sides[:, 0] * sides[:, 1]


def _areas(boxes: Floats) -> Floats:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _chunks(num_pairs: Ints) -> Iterator[tuple[int, int]]:
    """Half-open ranges of images with at most `_PAIRS_AT_ONCE` pairs each (one image may have more)."""
    first, total = 0, 0
    for image, count in enumerate(num_pairs.tolist()):
        if total and total + count > _PAIRS_AT_ONCE:
            yield first, image
            first, total = image, 0
        total += count
    if total:
        yield first, len(num_pairs)


def _pairs_of_images(gt_ranges: Ints, pred_ranges: Ints, first: int, last: int) -> tuple[Ints, Ints]:
    """Every (prediction, ground truth) of the same image, for images first..last-1."""
    counts = np.diff(gt_ranges)[first:last]
    pred_rows: Ints = np.arange(pred_ranges[first], pred_ranges[last], dtype=np.int64)
    image_of_pred = np.repeat(np.arange(first, last), np.diff(pred_ranges)[first:last])
    repeats = counts[image_of_pred - first]
    pred = np.repeat(pred_rows, repeats)
    starts = np.repeat(gt_ranges[image_of_pred], repeats)
    offsets = np.arange(pred.shape[0]) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return pred, starts + offsets


def _replace_by_mask_iou(data: EvaluationSet, pred: Ints, gt: Ints, iou: Floats, *, gt_ranges: Ints, pred_ranges: Ints) -> None:
    """Overwrites `iou` [K] in place where a side of the pair is a polygon."""
    by_mask = data.pred.is_polygon()[pred] | data.gt.is_polygon()[gt]
    images = data.gt.image[gt]  # non-decreasing: the pairs stand by prediction row
    for image in np.unique(images[by_mask]).tolist():
        start, stop = np.searchsorted(images, (image, image + 1)).tolist()
        here = start + np.flatnonzero(by_mask[start:stop])
        pred_rows = range(int(pred_ranges[image]), int(pred_ranges[image + 1]))
        gt_rows = range(int(gt_ranges[image]), int(gt_ranges[image + 1]))
        matrix = mask_iou_matrix(data, image, pred_rows=pred_rows, gt_rows=gt_rows)
        iou[here] = matrix[pred[here] - pred_rows.start, gt[here] - gt_rows.start]
