"""How much two sets of objects overlap, every pair at once, in bins. Boxes exactly, or drawn on a canvas; polygons are always drawn.

Drawing moves an edge by less than a pixel of the canvas, 999/resolution bins (3.9 at 256). `raster_bound` says how far the two can be apart therefore.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.geometry.bins import MAX_BIN
from coordexp.geometry.boxes import BoxArray, as_box_array, box_area, box_iou, order_corners, shared_sides
from coordexp.geometry.masks import mask_iou
from coordexp.geometry.polygons import box_to_ring, ring_to_box
from coordexp.types.records import DetObject

IouKind: TypeAlias = Literal["exact", "mask"]
"""`exact`: boxes by their corners, drawn only where a polygon takes part. `mask`: everything is drawn."""
FloatMatrix: TypeAlias = npt.NDArray[np.float64]

DEFAULT_RESOLUTION = 256

_Shape: TypeAlias = tuple[str, tuple[float, ...]]


def bounding_boxes(objects: Sequence[DetObject]) -> BoxArray:
    """[N, 4] xyxy in bins; the corners of a box in order, the smallest box around a polygon."""
    return as_box_array([order_corners(item.points) if item.kind == "bbox_2d" else ring_to_box(item.points) for item in objects])


def object_iou(a: Sequence[DetObject], b: Sequence[DetObject], *, iou: IouKind = "exact", resolution: int = DEFAULT_RESOLUTION) -> FloatMatrix:
    """IoU of every pair, [N, M].

    Equal objects have IoU 1 also when they have no area, or none that is drawn: an answer that equals the annotation misses nothing.

    Args:
        a: objects that hold bins.
        b: objects that hold bins.
        iou: how boxes are compared with boxes.
        resolution: side of the canvas, in pixels; it spans bins 0..999.
    """
    boxes_a, boxes_b = bounding_boxes(a), bounding_boxes(b)
    matrix = box_iou(boxes_a, boxes_b)
    drawn_a, drawn_b = (np.array([iou == "mask" or item.kind == "poly" for item in objects], dtype=bool) for objects in (a, b))
    if drawn_a.any() or drawn_b.any():
        _draw(matrix, a, b, is_drawn=drawn_a[:, None] | drawn_b[None, :], resolution=resolution)
    columns: dict[_Shape, list[int]] = {}
    for column, item in enumerate(b):
        columns.setdefault(_shape_of(item), []).append(column)
    for row, item in enumerate(a):
        for column in columns.get(_shape_of(item), ()):
            matrix[row, column] = 1.0
    return matrix


def raster_bound(a: npt.ArrayLike, b: npt.ArrayLike, *, resolution: int = DEFAULT_RESOLUTION) -> FloatMatrix:
    """How far mask IoU can be from exact IoU for every pair of boxes, [N, M]; at most 1.

    With d = 999/resolution each edge moves by less than d, so each side of a box, and of the intersection, by less than 2d. An area w·h then changes by at
    most D(w, h) = 2d(w + h) + 4d². With I, U the exact areas, D_I the change of the intersection and D_U = D_A + D_B + D_I that of the union,
    |mask − exact| <= (D_I + IoU·D_U) / (U − D_U), and never more than 1.
    """
    first, second = as_box_array(a), as_box_array(b)
    step = MAX_BIN / resolution
    width, height = shared_sides(first, second)
    union = np.add.outer(box_area(first), box_area(second)) - width * height
    change_common = _area_change(width, height, step)
    changes = [_area_change(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1], step) for boxes in (first, second)]
    change_union = np.add.outer(*changes) + change_common
    rest = union - change_union
    bound = np.divide(change_common + box_iou(first, second) * change_union, rest, out=np.ones_like(rest), where=rest > 0)
    return np.minimum(bound, 1.0)


def _area_change(width: FloatMatrix, height: FloatMatrix, step: float) -> FloatMatrix:
    return 2 * step * (width + height) + 4 * step**2


def _shape_of(item: DetObject) -> _Shape:
    return item.kind, order_corners(item.points) if item.kind == "bbox_2d" else item.points


def _draw(matrix: FloatMatrix, a: Sequence[DetObject], b: Sequence[DetObject], *, is_drawn: npt.NDArray[np.bool_], resolution: int) -> None:
    """Overwrite the marked pairs of `matrix` [N, M] by mask IoU; rows and columns without a mark are not drawn."""
    rows: list[int] = np.flatnonzero(is_drawn.any(axis=1)).tolist()
    columns: list[int] = np.flatnonzero(is_drawn.any(axis=0)).tolist()
    rings_a, rings_b = [_on_canvas(a[row], resolution) for row in rows], [_on_canvas(b[column], resolution) for column in columns]
    place = np.ix_(rows, columns)
    matrix[place] = np.where(is_drawn[place], mask_iou(rings_a, rings_b, width=resolution, height=resolution), matrix[place])


def _on_canvas(item: DetObject, resolution: int) -> list[float]:
    ring = box_to_ring(order_corners(item.points)) if item.kind == "bbox_2d" else item.points
    return [value * resolution / MAX_BIN for value in ring]
