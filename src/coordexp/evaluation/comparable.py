"""Whether two evaluations may be compared: the same images, the same ground truth, the same rules."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, ObjectTable
from coordexp.evaluation.result import EvaluationResult
from coordexp.semantics.normalize import normalize_label
from coordexp.types.errors import DataError

_FIX = "run inference on the same data file for both"


def check_same_data(a: EvaluationResult, b: EvaluationResult, *, names: tuple[str, str] = ("A", "B")) -> None:
    """The same images in the same order, each with the same ground-truth objects.

    Raises:
        DataError: names the first difference.
    """
    for place, (mine, theirs) in enumerate(zip(a.data.images, b.data.images, strict=False), start=1):
        if mine.file_name != theirs.file_name:
            raise DataError(f"image {place} is {theirs.file_name!r}, but {mine.file_name!r} in {names[0]}", where=names[1], fix=_FIX)
    if len(a.data.images) != len(b.data.images):
        raise DataError(f"has {len(b.data.images)} images, {names[0]} has {len(a.data.images)}", where=names[1], fix=_FIX)
    for image, mine, theirs in zip(a.data.images, _names_by_image(a.data), _names_by_image(b.data), strict=True):
        if len(mine) != len(theirs):
            what = f"{image.file_name} has {len(theirs)} ground truths, but {len(mine)} in {names[0]}"
            raise DataError(what, where=names[1], fix=_FIX)
        for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            if one != other:
                what = f"{image.file_name}: ground truth {index} is {other!r}, but {one!r} in {names[0]}"
                raise DataError(what, where=names[1], fix=_FIX)


def rule_differences(a: EvaluationResult, b: EvaluationResult) -> tuple[str, ...]:
    """What makes the numbers of two evaluations of the same images incomparable. Example: `("pixel_mode: int, exact",)`

    Without a prediction there is nothing to rank and nothing that overlaps: how such a run would do either does not matter.
    """
    have_predictions = len(a.data.pred) and len(b.data.pred)
    differences = a.protocol.differences(b.protocol, without=() if have_predictions else ("score_mode", "iou_of"))
    moved = _images_with_other_boxes(a.data, b.data)
    if not moved:
        return differences
    first = a.data.images[moved[0]].file_name
    return (*differences, f"ground-truth boxes of {len(moved)} images, the first is {first}")


def _names_by_image(data: EvaluationSet) -> list[list[str]]:
    names = [normalize_label(text) for text in data.descs]
    bounds: list[int] = data.gt.ranges(len(data.images)).tolist()
    codes: list[int] = data.gt.desc.tolist()
    return [[names[code] for code in codes[low:high]] for low, high in pairwise(bounds)]


def _images_with_other_boxes(a: EvaluationSet, b: EvaluationSet) -> list[int]:
    """Positions of the images; both sets hold the same objects."""
    differs = np.abs(a.gt.boxes - b.gt.boxes).max(axis=1, initial=0.0) > 1e-6
    for row in {*a.gt.polygons, *b.gt.polygons}:
        differs[row] |= not np.array_equal(_ring(a.gt, row), _ring(b.gt, row))
    return np.unique(a.gt.image[differs]).tolist()


def _ring(table: ObjectTable, row: int) -> list[float]:
    ring = table.polygons.get(row)
    return [] if ring is None else ring.tolist()
