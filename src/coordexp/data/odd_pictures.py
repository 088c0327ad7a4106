"""Eight pictures of the kinds that image code disagrees on: turned by EXIF, transparent, in a palette, CMYK, 16 bit, very wide, very high, tiny."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

_TURNED = 6
"""EXIF: the upper row is the right side."""
_ORIENTATION = 0x0112


def write_odd_pictures(folder: Path) -> list[Path]:
    """Write them into `folder`; the same bytes each time."""
    makers: dict[str, Callable[[Path], None]] = {
        "turned.jpg": _write_turned,
        "transparent.png": lambda path: Image.fromarray(_noise(40, 60, 4)).save(path),
        "palette.gif": lambda path: Image.fromarray(_noise(50, 50, 3)).quantize(16).save(path),
        "cmyk.jpg": lambda path: Image.fromarray(_noise(48, 64, 4), mode="CMYK").save(path),
        "grey16.png": lambda path: Image.fromarray(_noise(64, 48, 1)[:, :, 0].astype(np.uint16) * 257).save(path),
        "wide.png": lambda path: Image.fromarray(_noise(7, 300, 3)).save(path),
        "high.png": lambda path: Image.fromarray(_noise(211, 5, 3)).save(path),
        "tiny.png": lambda path: Image.fromarray(_noise(2, 3, 3)).save(path),
    }
    for name, write in makers.items():
        write(folder / name)
    return [folder / name for name in makers]


def _write_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    Image.fromarray(_noise(45, 71, 3)).save(path, exif=exif)


def _noise(height: int, width: int, channels: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)
