"""Simpler outlines by GEOS (the library shapely): the convex hull of parts, and fewer vertices with a bound on how far the outline moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import shapely

from coordexp.geometry.polygons import Ring

_HALVINGS = 12
"""Of the tolerance while the least one is searched: 2 pixels become 0.0005."""


def convex_hull(rings: Sequence[Ring]) -> Ring | None:
    """The convex hull of all vertices; None when they lie on one line.

    Example: `convex_hull([(0, 0, 2, 0, 1, 1, 2, 2, 0, 2)])` has the corners (0, 0), (2, 0), (2, 2), (0, 2).
    """
    points: Any = shapely.MultiPoint([point for ring in rings for point in zip(ring[0::2], ring[1::2], strict=True)])
    hull: Any = points.convex_hull
    return _to_ring(hull) if hull.geom_type == "Polygon" else None


def simplify_ring(ring: Ring, *, max_vertices: int, max_deviation: float) -> Ring | None:
    """The ring with at most `max_vertices`, its vertices a selection of the source's (Douglas and Peucker 1973, topology kept).

    No vertex of the source is farther than `max_deviation` from the new outline; of all tolerances up to it the least one that suffices is taken. None when
    none suffices.
    """
    if len(ring) <= 2 * max_vertices:
        return ring
    polygon: Any = shapely.Polygon(list(zip(ring[0::2], ring[1::2], strict=True)))
    found = _simplify(polygon, max_deviation)
    if len(found) > 2 * max_vertices:
        return None
    low, high = 0.0, max_deviation
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        candidate = _simplify(polygon, middle)
        if len(candidate) <= 2 * max_vertices:
            high, found = middle, candidate
        else:
            low = middle
    return found


def _simplify(polygon: Any, tolerance: float) -> Ring:
    return _to_ring(polygon.simplify(tolerance, preserve_topology=True))


def _to_ring(polygon: Any) -> Ring:
    """Flat, without the repeated closing vertex."""
    return tuple(float(value) for point in list(polygon.exterior.coords)[:-1] for value in point[:2])
