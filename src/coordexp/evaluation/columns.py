"""The data set under evaluation as columns: one row an object, numpy arrays, images in file order. Every later stage reads these and no JSON.

Rows of one image stand together, in the order of the record's own arrays; a row never moves to another image.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.evaluation.coco_source import CocoSource, Rle

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

COUNTERS = (
    "invalid_json",
    "invalid_geometry",
    "invalid_coord",
    "missing_size",
    "size_mismatch",
    "multi_image_ignored",
    "degenerate",
    "empty_pred",
    "unknown_desc",
    "unknown_dropped",
    "semantic_mapped",
    "semantic_unmapped",
    "semantic_report_failed",
)
"""Always present in `metrics.json`, zero or not."""


@dataclass(frozen=True, slots=True)
class InvalidObject:
    """An object that could not be used. Example: `InvalidObject(reason="coord_range", raw={"bbox_2d": ["<|coord_1000|>", …]})`"""

    reason: str
    raw: object


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One record that has a size."""

    image_id: int
    """Counts the readable lines of the file from 0; records without a size keep their number."""
    file_name: str
    width: int
    height: int
    line: int
    """Line of the file, from 1; 0 when the records did not come from a file."""
    errors: tuple[str, ...] = ()
    """What inference wrote into the record's `errors`."""
    invalid_gt: tuple[InvalidObject, ...] = ()
    invalid_pred: tuple[InvalidObject, ...] = ()
    finish_reason: str | None = None
    """Why the model stopped: `stop`, `length`, `repeat`, …; None when there was no answer, or the record does not say."""
    broken: tuple[tuple[str, int], ...] = ()
    """Entries of the answer that inference could not read, by reason. Example: `(("invalid_json", 1),)`"""


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """Objects of all images, in image order."""

    image: Ints
    """[N] position in `EvaluationSet.images`, non-decreasing."""
    index: Ints
    """[N] position in the record's own array, so that every reported index can be looked up in the file."""
    desc: Ints
    """[N] position in `EvaluationSet.descs`."""
    boxes: Floats
    """[N, 4] xyxy in pixels; whole numbers in pixel mode `int`. Of a polygon: the bounding box."""
    scores: Floats
    """[N]; NaN where the record has none."""
    polygons: Mapping[int, Floats] = field(default_factory=dict[int, Floats])
    """Row → flat ring x1,y1,x2,y2,… in pixels. Rows that are boxes are absent."""
    masks: Mapping[int, Rle] = field(default_factory=dict[int, Rle])
    """Row → pixel mask, where a COCO file gives one."""
    given_areas: Floats | None = None
    """[N] areas that a COCO file gives; None: those of the boxes."""
    outlines: dict[int, Rle] = field(default_factory=dict[int, Rle], repr=False, compare=False)
    """Row → polygon or box as pixels: filled by whoever needs one, so that each is rasterized once."""

    def __len__(self) -> int:
        return int(self.image.shape[0])

    @property
    def areas(self) -> Floats:
        """[N] in square pixels: as the file gives them, else of the boxes."""
        if self.given_areas is not None:
            return self.given_areas
        return (self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1])

    def is_polygon(self) -> Bools:
        """[N] whether the object is more than a box: a polygon, or a mask."""
        marks = np.zeros(len(self), dtype=np.bool_)
        for rows in (self.polygons, self.masks):
            marks[np.fromiter(rows, dtype=np.int64, count=len(rows))] = True
        return marks

    def take(self, rows: Ints) -> ObjectTable:
        """The rows [M], rising, as a table of their own."""
        new_of: dict[int, int] = {row: new for new, row in enumerate(rows.tolist())}
        return ObjectTable(
            image=self.image[rows],
            index=self.index[rows],
            desc=self.desc[rows],
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            polygons={new_of[row]: ring for row, ring in self.polygons.items() if row in new_of},
            masks={new_of[row]: mask for row, mask in self.masks.items() if row in new_of},
            given_areas=None if self.given_areas is None else self.given_areas[rows],
        )

    def ranges(self, num_images: int) -> Ints:
        """[num_images + 1]: the rows of image i are `ranges[i]:ranges[i + 1]`."""
        return np.searchsorted(self.image, np.arange(num_images + 1)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Everything that was read, and what was not."""

    images: tuple[ImageRow, ...]
    gt: ObjectTable
    pred: ObjectTable
    descs: tuple[str, ...]
    """Distinct stripped texts."""
    counters: Mapping[str, int]
    """The names of `COUNTERS`."""
    warnings: tuple[str, ...] = ()
    pixel_mode: str = "int"
    coco: CocoSource | None = None
    """What the COCO files say beyond this; None when the set came from records."""


class TableBuilder:
    """Collects one `ObjectTable`, object by object or as whole tables. Memory is a few dozen bytes an object."""

    def __init__(self) -> None:
        self._tables: list[ObjectTable] = []
        self._image = array("q")
        self._index = array("q")
        self._desc = array("q")
        self._boxes = array("d")
        self._scores = array("d")
        self._polygons: dict[int, Floats] = {}

    def add(self, *, image: int, index: int, desc: int, box: Sequence[float], score: float, ring: Sequence[float] | None) -> None:
        if ring is not None:
            self._polygons[len(self._image)] = np.asarray(ring, dtype=np.float64)
        self._image.append(image)
        self._index.append(index)
        self._desc.append(desc)
        self._boxes.extend(box)
        self._scores.append(score)

    def extend(self, table: ObjectTable) -> None:
        """All rows of a table. Those of one image come together, or object by object."""
        self._tables.append(table)

    def build(self) -> ObjectTable:
        single = ObjectTable(
            image=_column(self._image, np.int64),
            index=_column(self._index, np.int64),
            desc=_column(self._desc, np.int64),
            boxes=_column(self._boxes, np.float64).reshape(-1, 4),
            scores=_column(self._scores, np.float64),
            polygons=self._polygons,
        )
        return _in_image_order([*self._tables, single])


def _in_image_order(tables: Sequence[ObjectTable]) -> ObjectTable:
    """All rows as one table; rows of an image keep their order."""
    starts = np.cumsum([0, *map(len, tables)])
    images = np.concatenate([table.image for table in tables])
    order = np.argsort(images, kind="stable")
    place_of: list[int] = np.argsort(order, kind="stable").tolist()
    return ObjectTable(
        image=images[order],
        index=np.concatenate([table.index for table in tables])[order],
        desc=np.concatenate([table.desc for table in tables])[order],
        boxes=np.concatenate([table.boxes for table in tables])[order],
        scores=np.concatenate([table.scores for table in tables])[order],
        polygons={place_of[int(start) + row]: ring for start, table in zip(starts, tables, strict=False) for row, ring in table.polygons.items()},
    )


def _column(values: array[Any], dtype: type[Any]) -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype=dtype) if len(values) else np.empty(0, dtype=dtype)
