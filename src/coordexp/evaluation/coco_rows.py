"""Entries of COCO files as columns in image order. What cannot be used is set aside; segmentations are read only when masks take part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import msgspec
import numpy as np

from coordexp.evaluation.coco import encode_segmentation, mask_area, mask_box
from coordexp.evaluation.coco_files import Annotation, BadEntry, Box, Category, Entries, Entry, Id, Image, Prediction
from coordexp.evaluation.coco_source import CocoObjects, Rle
from coordexp.evaluation.columns import Bools, Floats, Ints
from coordexp.evaluation.objects import MAX_SIDE
from coordexp.types.errors import DataError

_FAR = 1e9
"""Pixels. Areas of boxes that reach farther would not be exact."""
_NO_SEGMENTATION = (b"null", b"[]", b"{}")


@dataclass(frozen=True, slots=True)
class Catalog:
    """The images and categories of an instances file by their ids."""

    path: Path
    place_of_image: Mapping[Id, int]
    """Id → position."""
    sizes: Sequence[tuple[int, int]]
    """(width, height) by position; 0 where the file gives none that an image can have."""
    number_of_category: Mapping[Id, int]
    """Id → number from 1 by rising id."""

    @classmethod
    def of(cls, path: Path, images: Sequence[Image], categories: Sequence[Category]) -> Catalog:
        """`categories` stand by rising id."""
        return cls(
            path,
            {image.id: place for place, image in enumerate(images)},
            [(_side(image.width), _side(image.height)) for image in images],
            {category.id: number for number, category in enumerate(categories, start=1)},
        )

    def check_size(self, place: int) -> None:
        """Raises DataError when the image has no size, and masks take part."""
        if not all(self.sizes[place]):
            fix = "masks need the size of every image: add width and height, or evaluate boxes with --no-segm"
            raise DataError("no width or height", where=f"{self.path}: images[{place}]", fix=fix)


@dataclass(frozen=True, slots=True)
class SideRows:
    """One of the two files."""

    objects: CocoObjects
    bad: tuple[BadEntry, ...]
    """By position in the list."""
    warnings: tuple[str, ...]
    """What was read otherwise than written."""


@dataclass(frozen=True, slots=True)
class _Row(Generic[Entry]):
    index: int
    place: int
    category: int
    entry: Entry
    mask: Rle | None


@dataclass(frozen=True, slots=True)
class _Sifted(Generic[Entry]):
    rows: list[_Row[Entry]]
    """In image order."""
    bad: tuple[BadEntry, ...]
    no_mask: dict[int, str]
    """Masks take part, and this entry, by its position, has no readable one: why."""


class _UnusableError(Exception):
    """The key that is wrong, and what is wrong with it."""


def annotation_rows(path: Path, entries: Entries[Annotation], catalog: Catalog, *, with_masks: bool, heeds_crowds: bool) -> SideRows:
    """`heeds_crowds`: whether `iscrowd` marks a region, as in COCO, or means nothing, as in LVIS.

    Raises:
        DataError: masks take part, and an image has no size.
    """
    sifted = _sift(entries, catalog, with_masks=with_masks)
    annotations = [row.entry for row in sifted.rows]
    xywh = _boxes([entry.bbox for entry in annotations])
    given = np.array([math.nan if entry.area is None else entry.area for entry in annotations], dtype=np.float64)
    ids, warnings = _annotation_ids(path, annotations)
    objects = CocoObjects(
        **_common_columns(sifted.rows),
        ids=ids,
        xywh=xywh,
        area=np.where(np.isnan(given), xywh[:, 2] * xywh[:, 3], given),
        scores=np.full(len(annotations), math.nan),
        is_crowd=_flags(entry.iscrowd if heeds_crowds else 0 for entry in annotations),
        is_ignored=_flags(entry.ignore for entry in annotations),
    )
    if np.isnan(given).any():
        warnings.append(f"{path.name}: {int(np.isnan(given).sum())} annotations have no area, that of their box counts")
    return SideRows(objects, sifted.bad, (*warnings, *_warnings(path, "annotations", xywh, sifted.no_mask)))


def prediction_rows(path: Path, entries: Entries[Prediction], catalog: Catalog, *, with_masks: bool) -> SideRows:
    """A result without a box gets that of its mask.

    Raises:
        DataError: masks take part, and an image has no size.
    """
    sifted = _sift(entries, catalog, with_masks=with_masks)
    rows = sifted.rows
    xywh = _boxes([_box_of(row) for row in rows])
    objects = CocoObjects(
        **_common_columns(rows, with_masks=with_masks),
        ids=np.arange(1, len(rows) + 1),
        xywh=xywh,
        area=np.array([mask_area(row.mask) if row.entry.bbox is None and row.mask else math.nan for row in rows], dtype=np.float64),
        scores=np.array([row.entry.score for row in rows], dtype=np.float64),
        is_crowd=np.zeros(len(rows), dtype=np.bool_),
        is_ignored=np.zeros(len(rows), dtype=np.bool_),
    )
    from_box = np.isnan(objects.area)
    objects.area[from_box] = (xywh[:, 2] * xywh[:, 3])[from_box]
    # boxes alone are a usual kind of results: only a part without masks is worth a word
    return SideRows(objects, sifted.bad, tuple(_warnings(path, "results", xywh, sifted.no_mask if objects.masks else {})))


def _sift(entries: Entries[Entry], catalog: Catalog, *, with_masks: bool) -> _Sifted[Entry]:
    rows, bad, no_mask = list[_Row[Entry]](), list(entries.bad), dict[int, str]()
    for index, entry in zip(entries.index, entries.good, strict=True):
        place = catalog.place_of_image.get(entry.image_id, -1)
        category = catalog.number_of_category.get(entry.category_id, 0)
        try:
            _check(entry, place, category)
            mask = _read_mask(entry, index, place, catalog, no_mask) if with_masks or entry.bbox is None else None
        except _UnusableError as problem:
            key, what = problem.args
            raw = {name: getattr(entry, name) for name in ("image_id", "category_id", "bbox", "score") if hasattr(entry, name)}
            bad.append(BadEntry(index, key, what, raw))
        else:
            rows.append(_Row(index, place, category, entry, mask))
    rows.sort(key=lambda row: row.place)  # stable: entries of an image keep their order
    return _Sifted(rows, tuple(sorted(bad, key=lambda entry: entry.index)), no_mask)


def _check(entry: Annotation | Prediction, place: int, category: int) -> None:
    if place < 0:
        raise _UnusableError("image_id", f"image_id {entry.image_id} is not among the images of the instances file")
    if not category:
        raise _UnusableError("category_id", f"category_id {entry.category_id} is not among the categories of the instances file")
    if entry.bbox is not None and not max(map(abs, entry.bbox)) < _FAR:
        raise _UnusableError("bbox", f"bbox {list(entry.bbox)} lies outside of any image")


def _read_mask(entry: Annotation | Prediction, index: int, place: int, catalog: Catalog, no_mask: dict[int, str]) -> Rle | None:
    """None and a note when there is none; then the outline of the box stands for it."""
    content = bytes(entry.segmentation)
    what = "it is missing"
    if content in _NO_SEGMENTATION:
        if entry.bbox is None:
            raise _UnusableError("bbox", "there is neither a bbox nor a segmentation")
    else:
        catalog.check_size(place)
        width, height = catalog.sizes[place]
        try:
            return encode_segmentation(msgspec.json.decode(content), width=width, height=height)
        except (ValueError, RecursionError) as error:
            what = str(error)
    if entry.bbox is None:
        raise _UnusableError("segmentation", f"there is no bbox, and the segmentation cannot be read ({what})")
    no_mask[index] = what
    return None


def _side(value: Id | None) -> int:
    return int(value) if value is not None and 1 <= value <= MAX_SIDE else 0


def _common_columns(rows: Sequence[_Row[Any]], *, with_masks: bool = True) -> dict[str, Any]:
    """What both sides have, by the names of `CocoObjects`."""
    return {
        "image": _ints([row.place for row in rows]),
        "index": _ints([row.index for row in rows]),
        "category": _ints([row.category for row in rows]),
        "masks": {place: row.mask for place, row in enumerate(rows) if row.mask is not None} if with_masks else {},
    }


def _annotation_ids(path: Path, annotations: Sequence[Annotation]) -> tuple[Ints, list[str]]:
    """The ids of the file. Ids that are missing, used twice, or no number that fits an index do not count: then the rows are numbered anew."""
    given = [entry.id for entry in annotations]
    if any(number is None or number != int(number) or abs(number) >= 2**53 for number in given):
        return np.arange(1, len(given) + 1), [f"{path.name}: annotations without a usable id were numbered anew"]
    ids = _ints([int(number or 0) for number in given])
    if len(np.unique(ids)) < len(ids):
        return np.arange(1, len(given) + 1), [f"{path.name}: annotation ids are used twice; each annotation counts, numbered anew"]
    if (ids == 0).any():
        return ids, [f"{path.name}: an annotation has the id 0, which pycocotools takes for 'not matched'; here its match counts"]
    return ids, []


def _warnings(path: Path, kind: str, xywh: Floats, no_mask: Mapping[int, str]) -> list[str]:
    warnings: list[str] = []
    num_empty = int((xywh[:, 2:] <= 0).any(axis=1).sum())
    if num_empty:
        warnings.append(f"{path.name}: {num_empty} {kind} have a box without width or height; they count as written")
    if no_mask:
        index, what = min(no_mask.items())
        warnings.append(f"{path.name}: {len(no_mask)} {kind} have no mask, their box counts as one (the first: {kind}[{index}]: {what})")
    return warnings


def _box_of(row: _Row[Prediction]) -> Box:
    if row.entry.bbox is not None:
        return row.entry.bbox
    assert row.mask is not None  # sifted
    return mask_box(row.mask)


def _boxes(boxes: Sequence[Box]) -> Floats:
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _flags(values: Iterable[int | bool | None]) -> Bools:
    return np.array([bool(value) for value in values], dtype=np.bool_)
