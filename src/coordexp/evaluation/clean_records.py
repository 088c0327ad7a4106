"""Records without anything unusual, many at once: typed decoding, then the pixels of all their objects as arrays.

Whatever is not plain (tokens, nested pairs, other keys, a bad value, a degenerate box) is left to `objects`, which reads a record piece by piece and says
what is wrong with it. Both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import nan
from typing import Any

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
        self._items: list[CleanObject] = []
        self._images: list[int] = []
        self._counts: list[int] = []
        self._are_bins: list[bool] = []

    def __len__(self) -> int:
        return len(self._items)

    def add(self, items: Sequence[CleanObject], *, image: int, is_bins: bool) -> None:
        """All objects of a record."""
        self._items.extend(items)
        self._images.append(image)
        self._counts.append(len(items))
        self._are_bins.append(is_bins)

    def pixels(self, sizes: Ints, *, first_image: int, desc_of: Callable[[str], int]) -> tuple[ObjectTable, Ints]:
        """(all objects with one geometry of the right number of points, images that have an unusable object, whose rows are not to be used).

        `sizes` [I, 2]: width and height of the images from `first_image` on.
        """
        lists, are_boxes, are_bins = self._geometries()
        lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        has_points = (lengths % 2 == 0) & np.where(are_boxes, lengths == 4, lengths >= 6)
        values = np.fromiter(chain.from_iterable(lists), dtype=np.float64)[np.repeat(has_points, lengths)]
        rows, lengths = np.flatnonzero(has_points), lengths[has_points]
        owner = np.repeat(np.arange(len(rows)), lengths)
        from_bins = are_bins[rows][owner]
        is_bad = np.zeros(len(rows), dtype=np.bool_)
        is_bad[owner[~np.isfinite(values) | (from_bins & ((values < 0) | (values > MAX_BIN)))]] = True
        image = np.repeat(np.array(self._images, dtype=np.int64), self._counts)
        limits: Floats = (sizes[image[rows] - first_image] - 1).astype(np.float64)
        values = self._to_pixels(values, from_bins, limits[owner[::2]].reshape(-1))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        low, high = self._corners(values.reshape(-1, 2), starts[:-1] // 2, are_boxes[rows])
        is_bad |= (high <= low).any(axis=1)
        spans = starts.tolist()
        scores = np.array([nan if item.score is None else item.score for item in self._items], dtype=np.float64)[rows]
        table = ObjectTable(
            image=image[rows],
            index=_places(self._counts)[rows],
            desc=np.array([desc_of(item.desc) for item in self._items], dtype=np.int64)[rows],
            boxes=np.concatenate([low, high], axis=1),
            scores=np.where(np.isfinite(scores), scores, nan),
            polygons={row: values[spans[row] : spans[row + 1]] for row in np.flatnonzero(~are_boxes[rows]).tolist()},
        )
        return table, np.unique(np.concatenate([image[~has_points], image[rows[is_bad]]]))

    def _geometries(self) -> tuple[list[Sequence[float]], Bools, Bools]:
        """(points, is a box [N], points are bins [N]). `type` with `points` comes first, else the only key; no points when there is none, or two."""
        typed = [item.type if item.points is not UNSET and item.type is not UNSET else None for item in self._items]
        lists: list[Any] = [
            item.points if kind is not None else item.poly if item.bbox_2d is None else item.bbox_2d if item.poly is None else None
            for item, kind in zip(self._items, typed, strict=True)
        ]
        are_boxes = [kind == "bbox_2d" if kind is not None else item.poly is None for item, kind in zip(self._items, typed, strict=True)]
        is_known = [kind is None or kind in KINDS for kind in typed]
        are_bins = np.repeat(np.array(self._are_bins, dtype=np.bool_), self._counts)
        if self._is_exact:
            for row, item in enumerate(self._items):
                if item.points_exact is not None and lists[row] is not None:
                    lists[row], are_bins[row] = item.points_exact, False
        points: list[Sequence[float]] = [found if found is not None and known else () for found, known in zip(lists, is_known, strict=True)]
        return points, np.array(are_boxes, dtype=np.bool_), are_bins

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


def _places(counts: Sequence[int]) -> Ints:
    """0..count - 1 for each of the counts, one after the other."""
    lengths = np.array(counts, dtype=np.int64)
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
