"""Reads one ground-truth or predicted object as a user's file spells it. It yields pixels or the reason why the object cannot be used; it never raises."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, cast

from coordexp.codec.coord_tokens import parse_coord_token
from coordexp.geometry.bins import MAX_BIN
from coordexp.geometry.polygons import ring_to_box

KINDS = ("bbox_2d", "poly")

MAX_SIDE = 1_000_000
"""Pixels. A record with a longer side is no image, and its masks would not fit into memory."""

_TOKEN_LIKE = re.compile(r"<\|coord_-?\d+\|>")


class Reason(StrEnum):
    """Why an object was left out."""

    GEOMETRY_KEYS = "geometry_keys"
    """Not an object, or it has no geometry, or more than one."""
    GEOMETRY_KIND = "geometry_kind"
    """A kind other than `bbox_2d` and `poly`, for example `line`."""
    GEOMETRY_POINTS = "geometry_points"
    """The points are not a list of numbers or of pairs."""
    COORD_PARSE = "coord_parse"
    """A value is not a finite number, or their count is odd."""
    COORD_RANGE = "coord_range"
    """A bin outside 0..999."""
    BBOX_POINTS = "bbox_points"
    """A box without 4 values."""
    POLY_POINTS = "poly_points"
    """A polygon with fewer than 3 vertices."""
    DEGENERATE = "degenerate"
    """No width or no height after rounding and clamping, or swapped corners of a predicted box."""
    DESC = "desc"
    """The desc is not a text."""


COUNTER_OF: Mapping[Reason, str] = {
    Reason.GEOMETRY_KEYS: "invalid_geometry",
    Reason.GEOMETRY_KIND: "invalid_geometry",
    Reason.GEOMETRY_POINTS: "invalid_geometry",
    Reason.BBOX_POINTS: "invalid_geometry",
    Reason.POLY_POINTS: "invalid_geometry",
    Reason.COORD_PARSE: "invalid_coord",
    Reason.COORD_RANGE: "invalid_coord",
    Reason.DEGENERATE: "degenerate",
    Reason.DESC: "unknown_desc",
}
"""Which counter of `metrics.json` a reason adds to."""

Values: TypeAlias = list[float]


@dataclass(frozen=True, slots=True)
class Frame:
    """How the numbers of one record are to be read."""

    width: int
    height: int
    is_bins: bool
    """Plain numbers are bins 0..999, because the record says so."""
    is_exact: bool
    """Keep fractions of a pixel, and prefer `points_exact`."""


@dataclass(frozen=True, slots=True)
class PixelObject:
    """A usable object."""

    desc: str
    box: tuple[float, float, float, float]
    """xyxy pixels."""
    ring: Sequence[float] | None
    """Flat ring of a polygon; None for a box."""
    score: float
    """NaN when there is none."""


def read_object(raw: object, frame: Frame, *, is_gt: bool) -> PixelObject | Reason:
    """One entry of `gt` or `pred`.

    A ground-truth box is put in order and may have more than 2 points (their bounding box counts); a predicted box is taken as written.
    """
    if not isinstance(raw, dict):
        return Reason.GEOMETRY_KEYS
    item = cast("dict[str, object]", raw)
    desc = item.get("desc")
    if desc is None:
        desc = ""
    elif not isinstance(desc, str):
        return Reason.DESC
    geometry = _geometry(item)
    if isinstance(geometry, Reason):
        return geometry
    kind, points = geometry
    is_bins, values = frame.is_bins, points
    if frame.is_exact and isinstance(item.get("points_exact"), list):
        is_bins, values = False, item["points_exact"]
    pixels = _pixels(values, frame, is_bins=is_bins)
    if isinstance(pixels, Reason):
        return pixels
    if kind == "poly":
        return _polygon(pixels, desc=desc.strip(), score=_score(item.get("score")))
    return _box(pixels, desc=desc.strip(), score=_score(item.get("score")), is_gt=is_gt)


def flat_points(raw: object) -> tuple[str, list[object]] | None:
    """The geometry of an object as its file spells it, pairs flattened: (kind, values). None when it has no readable one."""
    geometry = _geometry(cast("dict[str, object]", raw)) if isinstance(raw, dict) else None
    if geometry is None or isinstance(geometry, Reason):
        return None
    values = _flatten(geometry[1])
    return None if isinstance(values, Reason) else (geometry[0], values)


def _geometry(item: dict[str, object]) -> tuple[str, object] | Reason:
    """`type` with `points` comes first; else exactly one of the geometry keys."""
    if "points" in item and "type" in item:
        kind = item["type"]
        return (kind, item["points"]) if isinstance(kind, str) and kind in KINDS else Reason.GEOMETRY_KIND
    keys = [key for key in KINDS if item.get(key) is not None]
    if len(keys) == 1:
        return keys[0], item[keys[0]]
    return Reason.GEOMETRY_KIND if not keys and item.get("line") is not None else Reason.GEOMETRY_KEYS


def _flatten(points: object) -> list[object] | Reason:
    if not isinstance(points, list):
        return Reason.GEOMETRY_POINTS
    values = cast("list[object]", points)
    if not any(isinstance(value, list) for value in values):
        return values
    flat: list[object] = []
    for pair in values:
        if not isinstance(pair, list) or len(cast("list[object]", pair)) != 2:
            return Reason.GEOMETRY_POINTS
        flat.extend(cast("list[object]", pair))
    return flat


def _pixels(points: object, frame: Frame, *, is_bins: bool) -> Values | Reason:
    """Points as written → pixels of the frame, rounded (unless exact) and clamped."""
    flat = _flatten(points)
    if isinstance(flat, Reason):
        return flat
    if all(type(value) is int for value in flat):
        values = cast("Values", flat)
    else:
        parsed = _parse(flat)
        if isinstance(parsed, Reason):
            return parsed
        values, has_tokens = parsed
        is_bins = is_bins or has_tokens
    if len(values) % 2:
        return Reason.COORD_PARSE
    max_x, max_y = frame.width - 1, frame.height - 1
    if is_bins:
        if any(not 0 <= value <= MAX_BIN for value in values):
            return Reason.COORD_RANGE
        values = [value / MAX_BIN * (max_y if place % 2 else max_x) for place, value in enumerate(values)]
    if not frame.is_exact:
        # round() goes half to even, as the established evaluator does
        values = [round(value) for value in values]
    return [min(max(value, 0), max_y if place % 2 else max_x) for place, value in enumerate(values)]


def _parse(flat: list[object]) -> tuple[Values, bool] | Reason:
    """Numbers, numeric strings and coordinate tokens; the flag says that a token was among them."""
    values: Values = []
    has_tokens = False
    for value in flat:
        if isinstance(value, str):
            number = _parse_text(value)
            if isinstance(number, Reason):
                return number
            has_tokens = has_tokens or value.lstrip().startswith("<")
        elif isinstance(value, int | float):
            number = _as_float(value)
        else:
            return Reason.COORD_PARSE
        if not math.isfinite(number):
            return Reason.COORD_PARSE
        values.append(number)
    return values, has_tokens


def _parse_text(text: str) -> float | Reason:
    stripped = text.strip()
    token = parse_coord_token(stripped)
    if token is not None:
        return float(token)
    if _TOKEN_LIKE.fullmatch(stripped):
        return Reason.COORD_RANGE
    try:
        return float(stripped)
    except ValueError:
        return Reason.COORD_PARSE


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _box(values: Values, *, desc: str, score: float, is_gt: bool) -> PixelObject | Reason:
    if (len(values) < 4) if is_gt else (len(values) != 4):
        return Reason.BBOX_POINTS
    box = ring_to_box(values) if is_gt else (values[0], values[1], values[2], values[3])
    if box[2] <= box[0] or box[3] <= box[1]:
        return Reason.DEGENERATE
    return PixelObject(desc=desc, box=box, ring=None, score=score)


def _polygon(values: Values, *, desc: str, score: float) -> PixelObject | Reason:
    if len(values) < 6:
        return Reason.POLY_POINTS
    box = ring_to_box(values)
    if box[2] <= box[0] or box[3] <= box[1]:
        return Reason.DEGENERATE
    return PixelObject(desc=desc, box=box, ring=values, score=score)


def _score(value: object) -> float:
    """NaN for everything that is not a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = _as_float(value)
        return number if math.isfinite(number) else math.nan
    return math.nan
