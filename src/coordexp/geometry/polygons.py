"""Polygons as flat rings x1, y1, x2, y2, … of at least 3 vertices, y downwards: area, orientation, canonical order, box.

Canonical order: no repeated closing vertex, clockwise on the screen, starting at the top-most, then left-most vertex. The cyclic order of the vertices is
kept, so that concave outlines stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

Ring: TypeAlias = tuple[float, ...]


def signed_area(ring: Sequence[float]) -> float:
    """Shoelace formula; positive when the ring runs clockwise on the screen."""
    vertices = _vertices(ring)
    return _signed_area(vertices, origin=vertices[0])


def ring_area(ring: Sequence[float]) -> float:
    """Enclosed area."""
    return abs(signed_area(ring))


def ring_to_box(ring: Sequence[float]) -> tuple[float, float, float, float]:
    """Smallest box xyxy around the ring."""
    xs, ys = ring[0::2], ring[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def box_to_ring(box: Sequence[float]) -> Ring:
    """The box xyxy as a ring in canonical order."""
    x1, y1, x2, y2 = box
    return x1, y1, x2, y1, x2, y2, x1, y2


def canonical_ring(ring: Sequence[float]) -> Ring:
    """The same outline in canonical order. A ring without area keeps its direction.

    Example: `canonical_ring((0, 4, 4, 4, 4, 0, 0, 0, 0, 4))` is `(0, 0, 4, 0, 4, 4, 0, 4)`.

    Raises:
        ValueError: an odd number of values, or fewer than 3 vertices.
    """
    if len(ring) % 2 or len(ring) < 6:
        raise ValueError(f"{len(ring)} values are not the x, y of 3 or more vertices")
    vertices = _vertices(ring)
    while len(vertices) > 3 and vertices[-1] == vertices[0]:
        vertices.pop()
    first = min(vertices, key=lambda vertex: (vertex[1], vertex[0]))
    if _signed_area(vertices, origin=first) < 0:
        vertices.reverse()
    # where the vertex is repeated, a run of it is never cut: its end would be a repeated closing vertex
    starts = [i for i, vertex in enumerate(vertices) if vertex == first and vertices[i - 1] != first]
    start = min(starts, key=lambda i: vertices[i:] + vertices[:i], default=0)
    return tuple(value for vertex in vertices[start:] + vertices[:start] for value in vertex)


def is_canonical(ring: Sequence[float]) -> bool:
    """Whether the ring (>= 3 vertices) is in canonical order."""
    return canonical_ring(ring) == tuple(ring)


def _vertices(ring: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(ring[0::2], ring[1::2], strict=True))


def _signed_area(vertices: Sequence[tuple[float, float]], *, origin: tuple[float, float]) -> float:
    # relative to a vertex: no cancellation far from the image's origin; fsum: reversing the ring flips the sign and nothing else
    x0, y0 = origin
    edges = zip(vertices, [*vertices[1:], vertices[0]], strict=True)
    return math.fsum((xa - x0) * (yb - y0) - (xb - x0) * (ya - y0) for (xa, ya), (xb, yb) in edges) / 2
