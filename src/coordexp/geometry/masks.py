"""Rasterized polygons through COCO's run-length masks: mask IoU of rings with the pixels that COCO itself would count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

_masks = cast(Any, coco_mask)


def rings_to_rle(rings: Sequence[Sequence[float]], *, width: int, height: int) -> list[Any]:
    """One COCO RLE for each ring (pixels, >= 3 vertices)."""
    return _masks.frPyObjects([[float(value) for value in ring] for ring in rings], height, width) if rings else []


def ring_to_mask(ring: Sequence[float], *, width: int, height: int) -> npt.NDArray[np.bool_]:
    """[height, width]: the pixels inside the ring by COCO's rule."""
    return np.asarray(_masks.decode(rings_to_rle([ring], width=width, height=height)[0]), dtype=np.bool_)


def rle_to_mask(segmentation: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """[height, width] of COCO's `{"size": [h, w], "counts": …}`, run lengths as a list (uncompressed) or as a string (compressed).

    Raises:
        ValueError: the runs do not fill the size.
    """
    height, width = (int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    if isinstance(counts, list):
        runs = np.asarray(counts, dtype=np.int64)
        if runs.sum() != height * width or (runs < 0).any():
            raise ValueError(f"run lengths that fill {int(runs.sum())} of {height * width} pixels")
        values = np.arange(runs.size) % 2 == 1
        return np.repeat(values, runs).reshape((height, width), order="F")
    encoded = counts if isinstance(counts, bytes) else str(counts).encode("ascii")
    rle = {"size": [height, width], "counts": encoded}
    if int(_masks.area(rle)) > height * width:
        raise ValueError(f"run lengths that fill more than {height * width} pixels")
    return np.asarray(_masks.decode(rle), dtype=np.bool_)


def mask_iou(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, width: int, height: int) -> npt.NDArray[np.float64]:
    """Mask IoU of every pair of rings, [N, M], rasterized on an image of `width` × `height` pixels."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    first, second = (rings_to_rle(rings, width=width, height=height) for rings in (a, b))
    return np.asarray(_masks.iou(first, second, [0] * len(b)), dtype=np.float64)
