"""Objects as they were written → integer and exact pixels of the image. What cannot be used is named by a code and never takes its neighbours along.

One convention everywhere: `pixel = k/999 * (W-1)` (or `H-1`), rounded half to even, clamped to the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from coordexp.codec.native import NATIVE_SCALE
from coordexp.geometry.bins import MAX_BIN, bins_to_pixels, clamp_to_image
from coordexp.types.predictions import Detection
from coordexp.types.records import GeometryKind, Record
from coordexp.types.rollouts import SalvagedObject

Mode: TypeAlias = Literal["coord", "text", "native"]
PredCoordMode: TypeAlias = Literal["auto", "pixel", "norm1000"]
Space: TypeAlias = Literal["pixel", "norm1000", "native"]


class ObjectError(StrEnum):
    """Why a predicted object was left out. The values are public: `errors` of a line."""

    COORD_PARSE = "coord_parse"
    """A value is not a finite number."""
    COORD_RANGE = "coord_range"
    """A bin outside 0..999 in mode coord."""
    BBOX_POINTS = "bbox_points"
    POLY_POINTS = "poly_points"
    DEGENERATE = "degenerate"
    """No width or no height after rounding and clamping, or swapped corners."""


@dataclass(frozen=True, slots=True)
class PixelObject:
    """A predicted object in pixels. `index` is its place among the objects that were read."""

    index: int
    kind: GeometryKind
    points: tuple[int, ...]
    points_exact: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Standardized:
    """Example: `Standardized(objects=(PixelObject(0, "bbox_2d", …),), errors=(ObjectError.DEGENERATE,))`: two were read, one can be used."""

    objects: tuple[PixelObject, ...]
    errors: tuple[ObjectError, ...]
    """One for each object that was left out, in order."""


def standardize(
    objects: Sequence[SalvagedObject], *, mode: Mode, pred_coord_mode: PredCoordMode, width: int, height: int, keeps_fractions: bool = False
) -> Standardized:
    """Predicted objects in pixels of an image of `width` × `height`.

    `pred_coord_mode` auto: bins in mode coord; in mode text decided for the sample as a whole (`guess_space`). Numbers that are taken for bins are rounded to
    whole bins, unless `keeps_fractions` says that fractions are meant; those outside 0..999 are an error in mode coord and clamped in mode text.
    """
    space = _space_of(objects, mode=mode, pred_coord_mode=pred_coord_mode, width=width, height=height)
    kept: list[PixelObject] = []
    errors: list[ObjectError] = []
    for index, item in enumerate(objects):
        exact = _to_pixels(item, space=space, is_strict=mode == "coord", width=width, height=height, keeps_fractions=keeps_fractions)
        if isinstance(exact, ObjectError):
            errors.append(exact)
            continue
        points = tuple(round(value) for value in exact)
        if _is_degenerate(points, item.kind):
            errors.append(ObjectError.DEGENERATE)
        else:
            kept.append(PixelObject(index, item.kind, points, exact))
    return Standardized(tuple(kept), tuple(errors))


def _space_of(objects: Sequence[SalvagedObject], *, mode: Mode, pred_coord_mode: PredCoordMode, width: int, height: int) -> Space:
    if mode == "native":
        return "native"
    if pred_coord_mode != "auto":
        return pred_coord_mode
    return "norm1000" if mode == "coord" else guess_space(objects, width=width, height=height)


def guess_space(objects: Sequence[SalvagedObject], *, width: int, height: int) -> Space:
    """What the numbers of one answer are, when the model may write either.

    Coordinate tokens are bins. Beyond 999 they are pixels. Beyond the image, or in an image so large that pixels would go beyond 999, they are bins; in a
    smaller image plain numbers are pixels.
    """
    values = [value for item in objects for value in item.values if math.isfinite(value)]
    longest = max(width, height)
    if any(item.is_tokens for item in objects):
        return "norm1000"
    if not values or max(values) > MAX_BIN:
        return "pixel"
    return "norm1000" if max(values) > longest or longest > MAX_BIN + 1 else "pixel"


def ground_truth(record: Record) -> tuple[Detection, ...]:
    """The objects of a record in integer pixels and before rounding; none is dropped, also when it has no extent left."""
    exact = [_ground_truth_points(item.points, record) for item in record.objects]
    return tuple(
        Detection(desc=item.desc, kind=item.kind, points=tuple(round(value) for value in points), points_exact=points)
        for item, points in zip(record.objects, exact, strict=True)
    )


def _ground_truth_points(points: Sequence[float], record: Record) -> tuple[float, ...]:
    width, height = record.width, record.height
    pixels = points if record.coord_space == "pixel" else bins_to_pixels(points, width=width, height=height)
    return tuple(float(value) for value in clamp_to_image(pixels, width=width, height=height))


def _to_pixels(item: SalvagedObject, *, space: Space, is_strict: bool, width: int, height: int, keeps_fractions: bool) -> tuple[float, ...] | ObjectError:
    values = item.values
    if not all(math.isfinite(value) for value in values):
        return ObjectError.COORD_PARSE
    if item.kind == "bbox_2d" and len(values) != 4:
        return ObjectError.BBOX_POINTS
    if item.kind == "poly" and (len(values) < 6 or len(values) % 2):
        return ObjectError.POLY_POINTS
    if space == "norm1000":
        if is_strict and not all(0 <= value <= MAX_BIN for value in values):
            return ObjectError.COORD_RANGE
        values = bins_to_pixels(values if keeps_fractions else [round(value) for value in values], width=width, height=height)
    if space == "native":
        values = [value / NATIVE_SCALE * (height if place % 2 else width) for place, value in enumerate(values)]
    return tuple(float(value) for value in clamp_to_image(values, width=width, height=height))


def _is_degenerate(points: Sequence[int], kind: GeometryKind) -> bool:
    xs, ys = points[0::2], points[1::2]
    if kind == "bbox_2d":
        return xs[1] <= xs[0] or ys[1] <= ys[0]
    return max(xs) == min(xs) or max(ys) == min(ys)
