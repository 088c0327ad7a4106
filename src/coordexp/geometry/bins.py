"""Coordinate bins: the only place that knows how many there are, and how pixels become bins and back.

One denominator both ways: `c = x / max(1, W-1)`, `k = clamp(round(999*c), 0, 999)`, `c = k/999`. Bin 0 is the left or top edge, bin 999 the right or
bottom edge. Invariants: a quantized box has x1 < x2 and y1 < y2; a value inside the image survives the round trip within half a bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from coordexp.types.records import GeometryKind

NUM_BINS = 1000
MAX_BIN = NUM_BINS - 1

Rounding: TypeAlias = Literal["nearest", "outward"]
"""`outward`: floor x1, y1 and ceil x2, y2 of boxes; polygons are always rounded to the nearest bin."""

_NOISE = 1e-9
"""Bins. Outward rounding must not push a value that is a bin up to floating-point noise to the next one."""


@overload
def encode_norm(c: float) -> int: ...
@overload
def encode_norm(c: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]: ...
def encode_norm(c: float | npt.NDArray[np.floating]) -> int | npt.NDArray[np.int64]:
    """Bin of a normalized coordinate: `clamp(round(999*c), 0, 999)`, halves to even; a number or an array of any shape."""
    if isinstance(c, np.ndarray):
        return np.clip(np.rint(c.astype(np.float64) * MAX_BIN), 0, MAX_BIN).astype(np.int64)
    return min(max(round(c * MAX_BIN), 0), MAX_BIN)


def axis_span(size: int) -> int:
    """Distance in pixels between the first and the last pixel of an axis, at least 1: the denominator of normalization.

    Raises:
        ValueError: `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"an image side of {size} pixels")
    return max(1, size - 1)


def pixels_to_bins(points: Sequence[float], *, kind: GeometryKind, width: int, height: int, rounding: Rounding = "nearest") -> tuple[int, ...]:
    """Quantize flat x, y, … pixels to bins; values beyond the border are clamped (`count_beyond_border` counts them).

    A side of a box that would collapse is floored and ceiled, then, if need be, widened by one bin.

    Example: `pixels_to_bins((0, 0, 639, 240), kind="bbox_2d", width=640, height=481)` is `(0, 0, 999, 500)`.

    Raises:
        ValueError: a box without 4 values, or with x2 < x1 or y2 < y1; an odd number of values; a value that is not finite.
    """
    span_x, span_y = axis_span(width), axis_span(height)
    if kind == "bbox_2d":
        x1, y1, x2, y2 = points
        left, right = _quantize_side(x1, x2, span=span_x, rounding=rounding)
        top, bottom = _quantize_side(y1, y2, span=span_y, rounding=rounding)
        return left, top, right, bottom
    return tuple(encode_norm(value / span) for value, span in _with_spans(points, span_x, span_y))


def bins_to_pixels(bins: Sequence[float], *, width: int, height: int) -> tuple[float, ...]:
    """Pixels of flat x, y, … bins, integer or real-valued, unrounded.

    Raises:
        ValueError: an odd number of values.
    """
    spans = _with_spans(bins, axis_span(width), axis_span(height))
    return tuple(k / MAX_BIN * span for k, span in spans)


def count_beyond_border(points: Sequence[float], *, width: int, height: int) -> int:
    """How many of the flat x, y, … pixels lie outside [0, W-1] × [0, H-1] and are clamped by quantization (COCO's x+w = W does)."""
    span_x, span_y = axis_span(width), axis_span(height)
    if min(points) >= 0 and max(points[0::2]) <= span_x and max(points[1::2]) <= span_y:
        return 0
    return sum(not 0 <= value <= span for value, span in _with_spans(points, span_x, span_y))


def clamp_to_image(points: Sequence[float], *, width: int, height: int) -> tuple[float, ...]:
    """Flat x, y, … pixels moved onto [0, W-1] × [0, H-1]."""
    return tuple(min(max(value, 0), span) for value, span in _with_spans(points, axis_span(width), axis_span(height)))


def _with_spans(points: Sequence[float], span_x: int, span_y: int) -> list[tuple[float, int]]:
    if len(points) % 2:
        raise ValueError(f"{len(points)} values are not x, y pairs")
    return [(value, span_y if position % 2 else span_x) for position, value in enumerate(points)]


def _quantize_side(low: float, high: float, *, span: int, rounding: Rounding) -> tuple[int, int]:
    if not low <= high:
        raise ValueError(f"a box side from {low} to {high}")
    exact_low, exact_high = (min(max(value / span * MAX_BIN, 0), MAX_BIN) for value in (low, high))
    if rounding == "nearest":
        first, last = round(exact_low), round(exact_high)
        if first < last:
            return first, last
    first, last = math.floor(exact_low + _NOISE), math.ceil(exact_high - _NOISE)
    if first < last:
        return first, last
    return (first, first + 1) if first < MAX_BIN else (MAX_BIN - 1, MAX_BIN)
