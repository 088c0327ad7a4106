"""Outlines over a picture in a page: paths in bins, over which the picture is stretched, and the place of the name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.geometry.polygons import box_to_ring
from coordexp.types.records import GeometryKind

LAST_BIN = 999
_LOWEST_TAG_ABOVE = 8.0
"""A name whose box begins above this per cent of the height stands inside it."""


@dataclass(frozen=True, slots=True)
class PagePicture:
    """Example: `PagePicture(uri="data:image/png;base64,…", width=96, height=96)`"""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Outline:
    """One object."""

    path: str
    """In bins."""
    name: str
    note: str
    style: str
    """Class of the style sheet: `hit`, `miss` or `false`."""
    left: float
    top: float
    """Of the name, in per cent."""
    is_inside: bool


def outline_of(kind: GeometryKind, points: Sequence[float], *, name: str, note: str = "", style: str = "hit") -> Outline:
    """The outline of an object whose points are bins, whole or not."""
    ring: Sequence[float] = box_to_ring(points) if kind == "bbox_2d" else points
    xs, ys = ring[0::2], ring[1::2]
    path = "M" + "L".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True)) + "Z"
    top = 100 * min(ys) / LAST_BIN
    return Outline(path, name, note, style, left=100 * min(xs) / LAST_BIN, top=top, is_inside=top < _LOWEST_TAG_ABOVE)
