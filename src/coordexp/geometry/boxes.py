"""Axis-aligned boxes xyxy, continuous coordinates: validity, area, IoU. Any space, as long as both sides share it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

BoxArray: TypeAlias = npt.NDArray[np.float64]
"""[N, 4] as x1, y1, x2, y2."""


def as_box_array(boxes: npt.ArrayLike) -> BoxArray:
    """[N, 4] float64; an empty list becomes [0, 4].

    Raises:
        ValueError: not N times 4 values.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes of shape {array.shape} instead of [N, 4]")
    return array


def order_corners(points: Sequence[float]) -> tuple[float, float, float, float]:
    """The box of two opposite corners in any order."""
    x1, y1, x2, y2 = points
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def xywh_to_xyxy(box: Sequence[float]) -> tuple[float, float, float, float]:
    """COCO's x, y, width, height to corners."""
    x, y, width, height = box
    return x, y, x + width, y + height


def box_area(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """[N] = (x2-x1)·(y2-y1)."""
    array = as_box_array(boxes)
    return (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])


def box_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair, [N, M]; 0 when the union has no area.

    Example: `box_iou([[0, 0, 2, 2]], [[1, 0, 3, 2]])` is `[[1/3]]`.
    """
    first, second = as_box_array(a), as_box_array(b)
    width, height = shared_sides(first, second)
    intersection = width * height
    union = box_area(first)[:, None] + box_area(second)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def shared_sides(a: BoxArray, b: BoxArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Width and height of what every pair has in common, each [N, M]; 0 where they share nothing along that axis."""
    width, height = (np.maximum(np.minimum.outer(a[:, high], b[:, high]) - np.maximum.outer(a[:, low], b[:, low]), 0) for low, high in ((0, 2), (1, 3)))
    return width, height
