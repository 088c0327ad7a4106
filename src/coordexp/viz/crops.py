"""Small square pictures of single errors, cut from the original images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from coordexp.evaluation.columns import EvaluationSet, Floats, ObjectTable
from coordexp.evaluation.error_types import ErrorExample
from coordexp.types.errors import DataError
from coordexp.viz.images import embed_picture, frame_size, open_image

CROP_SIDE = 200
"""Pixels of the picture; larger regions are scaled down."""

_MARGIN = 0.3
"""Of the longer side of what is shown, on each side."""
_LEAST_SIDE = 48
_BEYOND = (128, 128, 128)
"""Where the region leaves the image."""


@dataclass(frozen=True, slots=True)
class Outline:
    """`side` is `gt` or `pred`, `points` are those of an SVG polygon, in pixels of the image."""

    side: str
    points: str


@dataclass(frozen=True, slots=True)
class Crop:
    """One error. The region is a square that may leave the image."""

    place: int
    """Position of its image."""
    left: float
    top: float
    side: float
    uri: str
    outlines: tuple[Outline, ...]
    caption: str
    file_name: str


def crop_examples(data: EvaluationSet, examples: Sequence[ErrorExample], *, root: Path) -> dict[ErrorExample, Crop]:
    """A picture for each example whose image can be read; every image is read once."""
    crops: dict[ErrorExample, Crop] = {}
    for place in sorted({example.image for example in examples}):
        try:
            photo = open_image(root, data.images[place])
        except DataError:
            continue  # counted with the pictures of the gallery
        for example in examples:
            if example.image == place:
                crops[example] = _crop(data, example, photo)
    return crops


def _crop(data: EvaluationSet, example: ErrorExample, photo: Image.Image) -> Crop:
    image = data.images[example.image]
    parts = [(side, table, row) for side, table, row in (("gt", data.gt, example.gt), ("pred", data.pred, example.pred)) if row is not None]
    left, top, side = _region([table.boxes[row] for _, table, row in parts], frame_size(data, example.image))
    return Crop(
        place=example.image,
        left=left,
        top=top,
        side=side,
        uri=embed_picture(_cut(photo, (left, top, side), scale=photo.width / (image.width or photo.width)), side=CROP_SIDE),
        outlines=tuple(Outline(name, _points(table, row)) for name, table, row in parts),
        caption=_caption(data, example),
        file_name=image.file_name,
    )


def _region(boxes: Sequence[Floats], size: tuple[int, int]) -> tuple[float, float, float]:
    """(left, top, side) of a square around the boxes; moved into the image where that is large enough."""
    x1, y1 = (min(float(box[axis]) for box in boxes) for axis in (0, 1))
    x2, y2 = (max(float(box[axis]) for box in boxes) for axis in (2, 3))
    side = max((1 + 2 * _MARGIN) * max(x2 - x1, y2 - y1), _LEAST_SIDE)
    left, top = ((low + high - side) / 2 for low, high in ((x1, x2), (y1, y2)))
    left, top = (min(max(start, 0.0), whole - side) if side <= whole else (whole - side) / 2 for start, whole in zip((left, top), size, strict=True))
    return round(left, 1), round(top, 1), round(side, 1)


def _cut(photo: Image.Image, region: tuple[float, float, float], *, scale: float) -> Image.Image:
    """`scale`: pixels of the photo for one of the record, which may count in another size."""
    left, top, side = (round(value * scale) for value in region)
    ground = Image.new("RGB", (max(side, 1), max(side, 1)), _BEYOND)
    ground.paste(photo, (-left, -top))
    return ground


def _points(table: ObjectTable, row: int) -> str:
    ring = table.polygons.get(row)
    x1, y1, x2, y2 = table.boxes[row].tolist()
    flat: list[float] = [x1, y1, x2, y1, x2, y2, x1, y2] if ring is None else ring.tolist()
    return " ".join(f"{x:g},{y:g}" for x, y in zip(flat[0::2], flat[1::2], strict=True))


def _caption(data: EvaluationSet, example: ErrorExample) -> str:
    """Example: `cat 0.83 for dog, IoU 0.61`"""
    truth = None if example.gt is None else data.descs[int(data.gt.desc[example.gt])] or "(no name)"
    if example.pred is None:
        return truth or ""
    said = data.descs[int(data.pred.desc[example.pred])] or "(no name)"
    score = "" if example.score is None else f" {example.score:.2f}"
    about = f" for {truth}" if truth is not None and truth != said else ""
    return f"{said}{score}{about}" + ("" if example.iou is None else f", IoU {example.iou:.2f}")
