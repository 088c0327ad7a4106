"""Outlines of a bitmap, traced along pixel edges: exact, so that rasterizing an outline gives its pixels back.

Pixel (x, y) covers [x, x+1] × [y, y+1], as in COCO. Pixels that touch only at a corner belong to different outlines.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.geometry.polygons import Ring, canonical_ring, signed_area

_Point: TypeAlias = tuple[int, int]


def mask_to_rings(mask: npt.NDArray[np.bool_]) -> tuple[list[Ring], list[Ring]]:
    """Outer outlines and holes of a bitmap [H, W], each largest first, as canonical rings without collinear vertices.

    Example: a mask of one pixel at x=2, y=1 gives `([(2, 1, 3, 1, 3, 2, 2, 2)], [])`.
    """
    outer: list[Ring] = []
    holes: list[Ring] = []
    successors = _boundary_steps(mask)
    while successors:
        loop = _take_loop(successors)
        ring = tuple(float(value) for point in _corners(loop) for value in point)
        (outer if signed_area(ring) > 0 else holes).append(canonical_ring(ring))
    for rings in (outer, holes):
        rings.sort(key=lambda ring: (-abs(signed_area(ring)), ring))
    return outer, holes


def _boundary_steps(mask: npt.NDArray[np.bool_]) -> dict[_Point, list[_Point]]:
    """Unit steps along all pixel edges between inside and outside, with the inside on the right: start → ends."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (
        (inside & ~padded[:-2, 1:-1], (0, 0), (1, 0)),
        (inside & ~padded[1:-1, 2:], (1, 0), (1, 1)),
        (inside & ~padded[2:, 1:-1], (1, 1), (0, 1)),
        (inside & ~padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    successors: dict[_Point, list[_Point]] = {}
    for is_edge, (x_from, y_from), (x_to, y_to) in sides:
        ys, xs = np.nonzero(is_edge)
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            successors.setdefault((x + x_from, y + y_from), []).append((x + x_to, y + y_to))
    return successors


def _take_loop(successors: dict[_Point, list[_Point]]) -> list[_Point]:
    """Remove one closed loop of steps and return its points."""
    start = next(iter(successors))
    loop, point, step = [start], start, (0, 0)
    while True:
        ends = successors[point]
        # two ways on only where pixels touch at a corner: a right turn stays with the same pixel
        right = (point[0] - step[1], point[1] + step[0])
        following = right if len(ends) > 1 and right in ends else ends[0]
        ends.remove(following)
        if not ends:
            del successors[point]
        step, point = (following[0] - point[0], following[1] - point[1]), following
        if point == start:
            return loop
        loop.append(point)


def _corners(loop: list[_Point]) -> list[_Point]:
    previous, following = [loop[-1], *loop[:-1]], [*loop[1:], loop[0]]
    return [point for before, point, after in zip(previous, loop, following, strict=True) if not (before[0] == after[0] or before[1] == after[1])]
