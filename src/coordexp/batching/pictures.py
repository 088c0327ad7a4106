"""Patches back to the picture that they were cut from: what an engine in another process is sent, so that it sees the very pixels that training sees.

The inverse of Qwen's image processor from its last uint8 stage on: patches hold `(value / 255 - mean) / std`, twice (an image is a still video of two
frames), in blocks that are merged later. A picture that was resized comes back resized, at a size that the processor leaves alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from coordexp.types.sequences import ImageInputs

_CHANNELS = 3
_ROUNDING = 0.05
"""How far from a whole number a value may be, in steps of 1/255, and still be the rounding of float32."""


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """How an image processor cuts and scales. Example: `PatchLayout.of(processor.image_processor).patch_size == 16`"""

    patch_size: int
    merge_size: int
    temporal_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, image_processor: Any) -> PatchLayout:
        """Of a Qwen image processor."""
        return cls(
            patch_size=int(image_processor.patch_size),
            merge_size=int(image_processor.merge_size),
            temporal_size=int(image_processor.temporal_patch_size),
            mean=tuple(float(value) for value in image_processor.image_mean),
            std=tuple(float(value) for value in image_processor.image_std),
        )


def restore_picture(inputs: ImageInputs, layout: PatchLayout) -> Image.Image:
    """The RGB picture whose patches `inputs` holds.

    Raises:
        ValueError: the patches are those of no 8-bit picture of this layout.
    """
    time, rows, columns = inputs.grid_thw
    merge, patch = layout.merge_size, layout.patch_size
    if time != 1:
        raise ValueError(f"a picture has one step in time, not {time}")
    shape = (rows // merge, columns // merge, merge, merge, _CHANNELS, layout.temporal_size, patch, patch)
    patches = inputs.pixel_values.reshape(shape)[:, :, :, :, :, 0]
    # [block row, block column, row in block, column in block, channel, y, x] to [height, width, channel]
    values = patches.transpose(0, 2, 5, 1, 3, 6, 4).reshape(rows * patch, columns * patch, _CHANNELS)
    levels = (values.astype(np.float64) * np.array(layout.std) + np.array(layout.mean)) * 255.0
    rounded = np.rint(levels)
    if np.abs(levels - rounded).max(initial=0.0) > _ROUNDING or rounded.min(initial=0) < 0 or rounded.max(initial=0) > 255:
        raise ValueError("the patches hold values that no 8-bit picture has with these image settings")
    return Image.fromarray(rounded.astype(np.uint8))


def encode_png(picture: Image.Image) -> bytes:
    """Lossless; little effort on size, since it goes over a local connection."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
