"""Records without anything unusual, many at once: typed decoding, then the pixels of all their objects as arrays.

Whatever is not plain (tokens, nested pairs, other keys, a bad value, a degenerate box) is left to `objects`, which reads a record piece by piece and says
what is wrong with it. Both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import nan
from typing import Any, cast

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from coordexp.evaluation.columns import Bools, Floats, Ints, ObjectTable
from coordexp.evaluation.objects import KINDS, MAX_SIDE
from coordexp.geometry.bins import MAX_BIN


class CleanObject(msgspec.Struct, gc=False):
    """An object in one of the usual spellings."""

    desc: str
    type: str | UnsetType = UNSET
    points: list[float] | UnsetType = UNSET
    bbox_2d: list[float] | None = None
    poly: list[float] | None = None
    points_exact: list[float] | None = None
    score: float | None = None


class CleanRecord(msgspec.Struct, gc=False):
    """A record with the usual keys."""

    image: str
    width: int
    height: int
    gt: list[CleanObject]
    pred: list[CleanObject]
    coord_mode: str | None = None
    coord_space: str | None = None
    errors: list[str] | None = None
    finish_reason: str | None = None
    broken: dict[str, int] | None = None
    images: Any = UNSET
    objects: Any = UNSET
    predictions: Any = UNSET

    @property
    def is_usual(self) -> bool:
        """Whether no other key could stand for one of these."""
        return 0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE and bool(self.image) and self.images is self.objects is self.predictions is UNSET


_decode = msgspec.json.Decoder(CleanRecord).decode


def decode_clean(line: bytes) -> CleanRecord | None:
    """None when the line is not such a record."""
    try:
        if not line.isascii():
            line.decode()  # the decoder passes over values of other keys without looking at their bytes
        record = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return record if record.is_usual else None


def convert_clean(record: Mapping[str, Any]) -> CleanRecord | None:
    """The same for a record in memory."""
    try:
        clean = msgspec.convert(record, CleanRecord)
    except (msgspec.ValidationError, RecursionError, OverflowError):
        return None
    return clean if clean.is_usual else None


class SideBuffer:
    """Ground truth or predictions of clean records, as written; `pixels` makes columns of them."""

    def __init__(self, *, is_gt: bool, is_exact: bool) -> None:
        self._is_gt = is_gt
        self._is_exact = is_exact
        self._images: list[int] = []
        self._indices: list[int] = []
        self._descs: list[int] = []
        self._are_boxes: list[bool] = []
        self._are_bins: list[bool] = []
        self._points: list[list[float]] = []
        self._scores: list[float] = []

    def __len__(self) -> int:
        return len(self._points)

    def add(self, objects: Sequence[CleanObject], *, image: int, is_bins: bool, desc_of: Callable[[str], int]) -> None:
        """All objects of a record; each `has_one_geometry`."""
        for index, item in enumerate(objects):
            points = item.points
            if points is UNSET or item.type is UNSET:
                points, is_box = (item.bbox_2d, True) if item.poly is None else (item.poly, False)
            else:
                is_box = item.type == "bbox_2d"
            exact = item.points_exact if self._is_exact else None
            self._points.append(cast("list[float]", points if exact is None else exact))
            self._are_bins.append(is_bins and exact is None)
            self._are_boxes.append(is_box)
            self._scores.append(nan if item.score is None else item.score)
            self._descs.append(desc_of(item.desc))
            self._images.append(image)
            self._indices.append(index)

    def pixels(self, sizes: Ints, *, first_image: int) -> tuple[ObjectTable, Ints]:
        """(all objects whose points have the right number, images that have an unusable object). The rows of those images are not to be used.

        `sizes` [I, 2]: width and height of the images from `first_image` on.
        """
        image = np.array(self._images, dtype=np.int64)
        are_boxes, lengths = np.array(self._are_boxes, dtype=np.bool_), np.fromiter(map(len, self._points), dtype=np.int64, count=len(self))
        has_points = (lengths % 2 == 0) & np.where(are_boxes, lengths == 4, lengths >= 6)
        values = np.fromiter(chain.from_iterable(self._points), dtype=np.float64)[np.repeat(has_points, lengths)]
        rows, owner = np.flatnonzero(has_points), np.repeat(np.arange(int(has_points.sum())), lengths[has_points])
        are_bins = np.array(self._are_bins, dtype=np.bool_)[rows][owner]
        is_bad = np.zeros(len(rows), dtype=np.bool_)
        is_bad[owner[~np.isfinite(values) | (are_bins & ((values < 0) | (values > MAX_BIN)))]] = True
        limits = sizes[image[rows] - first_image] - 1.0
        values = self._to_pixels(values, are_bins, limits[owner[::2]].reshape(-1))
        starts = np.concatenate([[0], np.cumsum(lengths[rows])])
        low, high = self._corners(values.reshape(-1, 2), starts[:-1] // 2, are_boxes[rows])
        is_bad |= (high <= low).any(axis=1)
        spans = starts.tolist()
        scores = np.array(self._scores, dtype=np.float64)[rows]
        table = ObjectTable(
            image=image[rows],
            index=np.array(self._indices, dtype=np.int64)[rows],
            desc=np.array(self._descs, dtype=np.int64)[rows],
            boxes=np.concatenate([low, high], axis=1),
            scores=np.where(np.isfinite(scores), scores, nan),
            polygons={row: values[spans[row] : spans[row + 1]] for row in np.flatnonzero(~are_boxes[rows]).tolist()},
        )
        return table, np.unique(np.concatenate([image[~has_points], image[rows[is_bad]]]))

    def _to_pixels(self, values: Floats, are_bins: Bools, limits: Floats) -> Floats:
        """[V], rounded (unless exact) and clamped to 0..limit."""
        values = np.where(are_bins, values / MAX_BIN * limits, values)
        if not self._is_exact:
            values = np.rint(values)  # half to even, as round() does
        return np.clip(values, 0.0, limits) + 0.0  # no negative zero

    def _corners(self, points: Floats, firsts: Ints, are_boxes: Bools) -> tuple[Floats, Floats]:
        """[N, 2] each; the points [V, 2] of an object begin at `firsts`. A predicted box is taken as written, a ground-truth box is put in order."""
        if not len(firsts):
            return np.zeros((0, 2)), np.zeros((0, 2))
        low, high = np.minimum.reduceat(points, firsts, axis=0), np.maximum.reduceat(points, firsts, axis=0)
        if not self._is_gt:
            written = firsts[are_boxes]
            low[are_boxes], high[are_boxes] = points[written], points[written + 1]
        return low, high


def has_one_geometry(item: CleanObject) -> bool:
    """Whether it is clear which geometry counts: `type` with `points`, else the only one of the geometry keys."""
    if item.points is not UNSET and item.type is not UNSET:
        return item.type in KINDS
    return (item.bbox_2d is None) != (item.poly is None)
