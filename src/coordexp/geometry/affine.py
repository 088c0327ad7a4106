"""Axis-aligned maps of the picture plane, and what of a box or polygon stays inside a window. Pixel coordinates: 0 is the first pixel, W-1 the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from coordexp.geometry.polygons import Ring, canonical_ring, ring_area
from coordexp.types.records import GeometryKind

Window: TypeAlias = tuple[float, float, float, float]
"""xyxy"""

_NOISE = 1e-9
"""Pixels. What differs by less is the same: a vertex on the border up to floating-point noise is not cut."""


@dataclass(frozen=True, slots=True)
class AxisMap:
    """`x -> scale·x + offset`. Example: `AxisMap(-1, 639)` mirrors a picture that is 640 pixels wide."""

    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, value: float) -> float:
        return self.scale * value + self.offset

    def then(self, other: AxisMap) -> AxisMap:
        """This map followed by `other`."""
        return AxisMap(self.scale * other.scale, other(self.offset))


@dataclass(frozen=True, slots=True)
class PlaneMap:
    """One map for each axis."""

    x: AxisMap = AxisMap()
    y: AxisMap = AxisMap()

    def then(self, other: PlaneMap) -> PlaneMap:
        """This map followed by `other`."""
        return PlaneMap(self.x.then(other.x), self.y.then(other.y))

    def move(self, points: Sequence[float], *, kind: GeometryKind) -> tuple[float, ...]:
        """Flat x, y, … under the map; corners of a box stay in order, a mirrored ring runs clockwise again."""
        moved = tuple([(self.y if position % 2 else self.x)(value) for position, value in enumerate(points)])
        if kind == "poly":
            return canonical_ring(moved)
        x1, y1, x2, y2 = moved
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def visible_part(points: Sequence[float], *, kind: GeometryKind, window: Window) -> tuple[tuple[float, ...] | None, float]:
    """(what lies inside the window, its share of the area); (None, 0.0) when nothing does.

    An outline without area counts as visible as a whole when any of it is inside.
    """
    if kind == "bbox_2d":
        clipped = _clip_box(points, window)
        whole, part = (_box_area(points), _box_area(clipped) if clipped else 0.0)
    else:
        clipped = clip_ring(points, window)
        whole, part = (ring_area(points), ring_area(clipped) if clipped else 0.0)
    if clipped is None or (whole > 0 and part == 0):
        return None, 0.0
    return clipped, part / whole if whole > 0 else 1.0


def clip_ring(ring: Sequence[float], window: Window) -> Ring | None:
    """The part of a ring inside a window, in canonical order; None when fewer than 3 vertices are left (Sutherland and Hodgman, CACM 1974).

    Parts of a concave ring stay one ring, joined by edges without area along the border: rasterized, it covers exactly the visible pixels.
    """
    vertices = list(zip(ring[0::2], ring[1::2], strict=True))
    for axis, limit, sign in ((0, window[0], 1), (0, window[2], -1), (1, window[1], 1), (1, window[3], -1)):
        vertices = _clip_half_plane(vertices, axis=axis, limit=limit, sign=sign)
    vertices = [vertex for number, vertex in enumerate(vertices) if not _are_same(vertex, vertices[number - 1])]
    return canonical_ring([value for vertex in vertices for value in vertex]) if len(vertices) >= 3 else None


def _clip_half_plane(vertices: list[tuple[float, float]], *, axis: int, limit: float, sign: int) -> list[tuple[float, float]]:
    """Keep where `sign·(coordinate - limit) >= 0`, up to noise."""
    kept: list[tuple[float, float]] = []
    for number, current in enumerate(vertices):
        previous = vertices[number - 1]
        before, now = (sign * (vertex[axis] - limit) for vertex in (previous, current))
        if (before < -_NOISE) != (now < -_NOISE) and before != now:
            share = before / (before - now)
            crossing = [previous[i] + share * (current[i] - previous[i]) for i in (0, 1)]
            crossing[axis] = limit
            kept.append((crossing[0], crossing[1]))
        if now >= -_NOISE:
            kept.append(current)
    return kept


def _are_same(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return abs(first[0] - second[0]) <= _NOISE and abs(first[1] - second[1]) <= _NOISE


def _clip_box(box: Sequence[float], window: Window) -> tuple[float, ...] | None:
    x1, y1, x2, y2 = max(box[0], window[0]), max(box[1], window[1]), min(box[2], window[2]), min(box[3], window[3])
    return (x1, y1, x2, y2) if x1 <= x2 and y1 <= y2 else None


def _box_area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
