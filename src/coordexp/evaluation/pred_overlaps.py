"""Which predictions of an image overlap one another. Boxes only: of a polygon its bounding box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import Floats, Ints, ObjectTable
from coordexp.evaluation.overlaps import box_iou_of_pairs

_PAIRS_AT_ONCE = 1_000_000
_SLACK = 1e-6
"""Pixels; rounding must not cost a pair, IoU decides in the end."""


@dataclass(frozen=True, slots=True)
class PredOverlaps:
    """Pairs of one image with IoU above the asked minimum, each once."""

    first: Ints
    """[K] row of the table; stands earlier in the record than `second`."""
    second: Ints
    """[K]"""
    iou: Floats
    """[K]"""


def find_pred_overlaps(table: ObjectTable, *, above: float) -> PredOverlaps:
    """All pairs with IoU > `above`.

    IoU is at most the overlap of the two x ranges over their hull, so the left edges are less than (1 − above) widths of the left box apart. Sorted by left
    edge, the partners of a box are therefore its next neighbours: hundreds of boxes in an image do not make all their pairs.
    """
    parts = [_overlapping(table, a, b, above=above) for a, b in _neighbours(table, above=above)]
    first, second, iou = (np.concatenate(columns) for columns in zip(*parts, strict=True)) if parts else (np.empty(0) for _ in range(3))
    return PredOverlaps(first.astype(np.int64), second.astype(np.int64), iou)


def _neighbours(table: ObjectTable, *, above: float) -> Iterator[tuple[Ints, Ints]]:
    """Rows of candidate pairs, in bounded portions."""
    if not len(table):
        return
    left, width = table.boxes[:, 0], table.boxes[:, 2] - table.boxes[:, 0]
    at = table.image * (float(table.boxes[:, 2].max()) + 1.0) + left  # one axis for all images, one stretch for each
    order = np.argsort(at, kind="stable")
    at, reach = at[order], (1.0 - above) * width[order]
    stops = np.searchsorted(at, at + reach + _SLACK, side="right")
    counts = np.maximum(stops - np.arange(len(order)) - 1, 0)  # a box of a COCO file may have a negative width
    total = np.cumsum(counts)
    start = 0
    while start < len(order):
        done = int(total[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total, done + _PAIRS_AT_ONCE, side="right")), start + 1)
        here = counts[start:stop]
        a = np.repeat(np.arange(start, stop), here)
        b = a + 1 + np.arange(len(a)) - np.repeat(np.cumsum(here) - here, here)
        yield order[a], order[b]
        start = stop


def _overlapping(table: ObjectTable, a: Ints, b: Ints, *, above: float) -> tuple[Ints, Ints, Floats]:
    iou = box_iou_of_pairs(table.boxes[a], table.boxes[b])
    keep = (iou > above) & (table.image[a] == table.image[b])
    return np.minimum(a, b)[keep], np.maximum(a, b)[keep], iou[keep]
