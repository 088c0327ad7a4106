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
    return _masks.decode(rings_to_rle([ring], width=width, height=height)[0]).astype(np.bool_)


def rle_to_mask(segmentation: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """[height, width] of COCO's `{"size": [h, w], "counts": …}`, run lengths as a list (uncompressed) or as a string (compressed).

    Raises:
        ValueError: the runs do not fill the size.
    """
    height, width = (int(side) for side in segmentation["size"])
    counts = segmentation["counts"]
    # unpacked here, not by the library, which trusts the runs and writes past its buffer when they are too long
    runs = np.asarray(counts if isinstance(counts, list) else _unpack_counts(str(counts)), dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"the runs fill {int(runs.sum())} of {height * width} pixels")
    is_inside = np.arange(runs.size) % 2 == 1
    return np.repeat(is_inside, runs).reshape((height, width), order="F")


def _unpack_counts(text: str) -> list[int]:
    """COCO's compressed runs: 5 bits a character from chr(48), bit 5 says "more", from the fourth run on the difference to the run before last."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is not a character of compressed runs")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs


def mask_iou(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, width: int, height: int) -> npt.NDArray[np.float64]:
    """Mask IoU of every pair of rings, [N, M], rasterized on an image of `width` × `height` pixels."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    first, second = (rings_to_rle(rings, width=width, height=height) for rings in (a, b))
    return np.asarray(_masks.iou(first, second, [0] * len(b)), dtype=np.float64)
