"""Backgrounds for synthetic scenes: flat, gradient, stripes, smooth noise, and crops of photographs handed in by the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from coordexp.data.synthetic.scenes import Background, SceneSettings

Pixels = npt.NDArray[np.uint8]
Photos = Sequence[Image.Image]


def draw_background(settings: SceneSettings, rng: np.random.Generator, *, photos: Photos = ()) -> Pixels:
    """[H, W, 3] of a kind drawn from `settings.backgrounds`."""
    kind = settings.backgrounds[int(rng.integers(len(settings.backgrounds)))]
    if kind == "photo":
        return _photo(settings.width, settings.height, rng, photos)
    return _PROCEDURAL[kind](settings.width, settings.height, rng)


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> npt.NDArray[np.int64]:
    """A colour near a grey, so that strong colours stay the objects'."""
    grey = int(rng.integers(low, high))
    return np.clip(grey + rng.integers(-18, 19, size=3), 0, 255)


def _flat(width: int, height: int, rng: np.random.Generator) -> Pixels:
    return np.broadcast_to(_colour(rng).astype(np.uint8), (height, width, 3)).copy()


def _gradient(width: int, height: int, rng: np.random.Generator) -> Pixels:
    corners = np.stack([_colour(rng) for _ in range(4)]).astype(np.uint8).reshape(2, 2, 3)
    return _enlarge(corners, width, height, Image.Resampling.BILINEAR)


def _stripes(width: int, height: int, rng: np.random.Generator) -> Pixels:
    first = _colour(rng)
    second = np.clip(first + int(rng.choice([-1, 1])) * int(rng.integers(12, 40)), 0, 255)
    period = int(rng.integers(8, 33))
    slope_x, slope_y = int(rng.integers(-3, 4)), int(rng.integers(1, 4))
    phase = slope_x * np.arange(width)[None, :] + slope_y * np.arange(height)[:, None]
    is_second = (phase // period) % 2 == 0
    return np.where(is_second[:, :, None], second, first).astype(np.uint8)


def _noise(width: int, height: int, rng: np.random.Generator) -> Pixels:
    cells = int(rng.integers(4, 25))
    strength = int(rng.integers(10, 50))
    grid = _colour(rng) + rng.integers(-strength, strength + 1, size=(cells, cells, 1))
    return _enlarge(np.clip(grid, 0, 255).astype(np.uint8), width, height, Image.Resampling.BICUBIC)


def _photo(width: int, height: int, rng: np.random.Generator, photos: Photos) -> Pixels:
    photo = photos[int(rng.integers(len(photos)))]
    scale = float(rng.uniform(0.6, 1.6))
    crop_width, crop_height = min(photo.width, round(width * scale)), min(photo.height, round(height * scale))
    x = int(rng.integers(0, photo.width - crop_width + 1))
    y = int(rng.integers(0, photo.height - crop_height + 1))
    crop = photo.crop((x, y, x + crop_width, y + crop_height))
    return np.asarray(crop.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8).copy()


def _enlarge(pixels: Pixels, width: int, height: int, filter_: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), filter_), dtype=np.uint8).copy()


_PROCEDURAL: dict[Background, Callable[[int, int, np.random.Generator], Pixels]] = {
    "flat": _flat,
    "gradient": _gradient,
    "stripes": _stripes,
    "noise": _noise,
}
