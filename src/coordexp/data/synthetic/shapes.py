"""Drawn shapes: six colours times four forms on quiet backgrounds, optionally with outlines, from no object to dense scenes."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from coordexp.data.synthetic.scenes import Box, Scene, SceneSettings, draw_count, draw_side, find_place, scene_rng
from coordexp.data.synthetic.textures import draw_background
from coordexp.types.records import DetObject

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (45, 85, 220),
    "yellow": (235, 210, 40),
    "purple": (150, 50, 190),
    "orange": (245, 135, 25),
}
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": tuple((0.5 + 0.5 * math.sin(math.pi * i / 12), 0.5 - 0.5 * math.cos(math.pi * i / 12)) for i in range(24)),
    "square": ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "triangle": ((0.5, 0.0), (1.0, 1.0), (0.0, 1.0)),
    "diamond": ((0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)),
}
"""Clockwise from the top, in units of the box."""
SHAPE_NAMES: tuple[str, ...] = tuple(f"{colour} {form}" for colour in COLOURS for form in _OUTLINES)
_SUPERSAMPLING = 4


def render_shapes_scene(settings: SceneSettings, index: int, *, num_objects: int | None = None) -> Scene:
    """Scene `index` of a split; `num_objects` fixes the count (fewer when no place is found)."""
    rng = scene_rng(settings, index)
    count = draw_count(settings, rng, num_objects)
    image = draw_background(settings, rng)
    boxes: list[Box] = []
    names: list[str] = []
    for _ in range(count):
        side = draw_side(settings, rng)
        box = find_place(boxes, side, side, settings, rng)
        name = SHAPE_NAMES[int(rng.integers(len(SHAPE_NAMES)))]
        jitter = rng.integers(-12, 13, size=3)
        if box is None:
            continue
        _paint(image, box, name, jitter)
        boxes.append(box)
        names.append(name)
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i][1], boxes[i][0]))
    objects = tuple(DetObject(desc=names[i], kind="bbox_2d", points=boxes[i]) for i in order)
    rings = tuple(_ring(boxes[i], names[i]) if settings.with_polygons else None for i in order)
    return Scene(image=image, objects=objects, rings=rings)


def _paint(image: npt.NDArray[np.uint8], box: Box, name: str, jitter: npt.NDArray[np.int64]) -> None:
    colour, form = name.split(" ")
    side = box[2] - box[0]
    large = side * _SUPERSAMPLING
    mask_image = Image.new("L", (large, large), 0)
    pen = ImageDraw.Draw(mask_image)
    if form == "circle":
        pen.ellipse((0, 0, large - 1, large - 1), fill=255)
    else:
        pen.polygon([(x * (large - 1), y * (large - 1)) for x, y in _OUTLINES[form]], fill=255)
    mask = np.asarray(mask_image.resize((side, side), Image.Resampling.BOX), dtype=np.int64)[:, :, None]
    ink = np.clip(np.array(COLOURS[colour]) + jitter, 0, 255)
    patch = image[box[1] : box[3], box[0] : box[2]]
    patch[:] = (patch.astype(np.int64) * (255 - mask) + ink * mask + 127) // 255


def _ring(box: Box, name: str) -> tuple[float, ...]:
    """Outline in pixels to two decimals."""
    outline = _OUTLINES[name.split(" ")[1]]
    width, height = box[2] - box[0], box[3] - box[1]
    return tuple(value for x, y in outline for value in (round(box[0] + x * width, 2), round(box[1] + y * height, 2)))
