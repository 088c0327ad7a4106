"""What a synthetic scene is, and how it is laid out: settings, seeded random streams, sizes and places of boxes.

A scene is a function of (settings, index) alone: index 7 is the same picture whether or not scene 6 was made. Only additions, multiplications and
Pillow's fixed-point resampling touch the pixels, so that the bytes do not depend on the processor's mathematical library.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.types.errors import DataError
from coordexp.types.records import DetObject

SceneKind: TypeAlias = Literal["shapes", "digits"]
Fold: TypeAlias = Literal["train", "val"]
Background: TypeAlias = Literal["flat", "gradient", "stripes", "noise", "photo"]
Box: TypeAlias = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels; x2 and y2 are the first column and row outside."""

_TRIES_PER_OBJECT = 40


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """How to make the scenes of one split.

    Example: `SceneSettings(name="shapes-val", kind="shapes", seed=11, num_scenes=200)`
    """

    name: str
    """Of the split; part of the seed, so two splits never share a scene."""
    kind: SceneKind
    seed: int
    num_scenes: int
    width: int = 192
    """Pixels."""
    height: int = 192
    min_objects: int = 0
    max_objects: int = 6
    """The count is uniform in min..max; a scene in which a place cannot be found for all of them has fewer."""
    min_side: int = 28
    """Longer side of an object's box, in pixels."""
    max_side: int = 72
    max_iou: float = 0.05
    """Largest IoU between two boxes of a scene."""
    backgrounds: tuple[Background, ...] = ("flat", "gradient", "stripes", "noise")
    contrast: tuple[float, float] = (0.7, 1.0)
    """Digits: how far the ink is from the background around it; 1 is black or white."""
    fold: Fold = "train"
    """Digits: which of the original handwritten samples (and which part of the photographs) may be used."""
    with_polygons: bool = False
    """Shapes: also give outlines."""

    def __post_init__(self) -> None:
        """Raises DataError: settings that no scene can satisfy."""
        where = f"scene settings {self.name!r}"
        if not 0 <= self.min_objects <= self.max_objects:
            raise DataError(f"min_objects={self.min_objects}, max_objects={self.max_objects}", where=where, fix="use 0 <= min_objects <= max_objects")
        if not 8 <= self.min_side <= self.max_side <= min(self.width, self.height):
            raise DataError(
                f"min_side={self.min_side}, max_side={self.max_side} in {self.width}x{self.height}",
                where=where,
                fix="use 8 <= min_side <= max_side <= the shorter side of the image",
            )
        if not self.backgrounds:
            raise DataError("no backgrounds", where=where, fix="name at least one")
        if self.with_polygons and self.kind != "shapes":
            raise DataError("only shapes have outlines", where=where, fix="set with_polygons to false")


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture with its objects, sorted by (y1, x1)."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    objects: tuple[DetObject, ...]
    """Boxes in pixels; x2 and y2 are the first column and row outside, as in COCO."""
    rings: tuple[tuple[float, ...] | None, ...] = field(default=())
    """One outline (flat x, y, …) for each object, or None."""


def scene_rng(settings: SceneSettings, index: int) -> np.random.Generator:
    """The random stream of scene `index`."""
    name = int.from_bytes(hashlib.sha256(f"{settings.kind}/{settings.name}".encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64([settings.seed, index, name]))


def draw_count(settings: SceneSettings, rng: np.random.Generator, num_objects: int | None) -> int:
    """How many objects the scene should have; the stream advances equally whether or not the count is given."""
    drawn = int(rng.integers(settings.min_objects, settings.max_objects + 1))
    return drawn if num_objects is None else num_objects


def draw_side(settings: SceneSettings, rng: np.random.Generator) -> int:
    """Longer side of an object in pixels. Small ones are as frequent as in an area-free draw: uniform over the square root of the side."""
    low, high = settings.min_side**0.5, settings.max_side**0.5
    return round(float(rng.uniform(low, high)) ** 2)


def find_place(taken: list[Box], width: int, height: int, settings: SceneSettings, rng: np.random.Generator) -> Box | None:
    """A box of the given size inside the image that respects `max_iou`; None after too many tries."""
    for _ in range(_TRIES_PER_OBJECT):
        x = int(rng.integers(0, settings.width - width + 1))
        y = int(rng.integers(0, settings.height - height + 1))
        box = (x, y, x + width, y + height)
        if all(box_overlap(box, other) <= settings.max_iou for other in taken):
            return box
    return None


def box_overlap(a: Box, b: Box) -> float:
    """IoU of two boxes in pixels."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)
