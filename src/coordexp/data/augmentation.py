"""Augmentation of training pictures: image and geometry move by the same map. The picture keeps its size, and the answer never gets longer.

Everything is drawn from the seed that the caller gives for (record, epoch): threads, workers and resumed runs see the same pictures.
A pixel coordinate is the centre of a pixel, as in quantization (0 is the first pixel, W-1 the last); pixels and geometry are moved by that rule.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageEnhance

from coordexp.data.convert import to_norm1000, to_pixels
from coordexp.data.images import resize_image
from coordexp.geometry.affine import AxisMap, PlaneMap, visible_part
from coordexp.geometry.bins import axis_span
from coordexp.types.records import DetObject, Record

_ATTEMPTS = 10
"""Windows that are drawn before a picture stays whole."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A window of the picture, enlarged to its size."""

    probability: float
    min_scale: float
    """Shortest side of a window, as a share of the picture's."""
    min_coverage: float
    """Mean visible share of the objects that a window must reach; 0 takes windows without objects too."""


@dataclass(frozen=True, slots=True)
class ZoomOut:
    """The picture, made smaller, on a plain ground; only pictures that were not cropped."""

    probability: float
    min_scale: float
    """Shortest side, as a share of the picture's."""
    fill: tuple[int, int, int]
    """RGB of the ground."""


@dataclass(frozen=True, slots=True)
class Colour:
    """Each strength a means a factor between 1-a and 1+a; `hue` a turn of at most that share of the colour circle."""

    probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Example: `Augmentation(hflip=0.5, crop=Crop(probability=0.5, min_scale=0.6, min_coverage=0.5))`"""

    hflip: float = 0.0
    """Probability of a left-right mirror."""
    vflip: float = 0.0
    """Probability of a top-bottom mirror."""
    crop: Crop | None = None
    zoom_out: ZoomOut | None = None
    colour: Colour | None = None
    min_visible: float = 0.3
    """Objects of which a smaller share stays in the picture are removed; others are cut at its border."""


def augment(image: Image.Image, record: Record, settings: Augmentation, *, seed: int) -> tuple[Image.Image, Record]:
    """The picture and its record, changed as `seed` says.

    Args:
        image: mode RGB, of the record's size.
        record: coordinates in any space.
        settings: what may happen.
        seed: of this record in this epoch.

    Returns:
        A picture of the same size, and the record in bins. It may have fewer objects, also none, and never more coordinates.
    """
    generator = random.Random(seed)
    pixels = to_pixels(record)
    image, plane = mirrored = _mirror(image, settings, generator)
    if settings.crop is not None and generator.random() < settings.crop.probability:
        image, plane = _crop(image, plane, pixels, settings, settings.crop, generator)
    if settings.zoom_out is not None and generator.random() < settings.zoom_out.probability and plane is mirrored[1]:
        image, plane = _zoom_out(image, plane, settings.zoom_out, generator)
    if settings.colour is not None and generator.random() < settings.colour.probability:
        image = _colour(image, settings.colour, generator)
    if plane == PlaneMap():
        return image, to_norm1000(record)
    moved = replace(pixels, objects=move_objects(pixels, plane, min_visible=settings.min_visible))
    return image, to_norm1000(moved)


def move_objects(record: Record, plane: PlaneMap, *, min_visible: float) -> tuple[DetObject, ...]:
    """The objects of a record in pixels under the map, cut at the border of the picture, without those that are less visible than `min_visible`."""
    window = (0.0, 0.0, float(axis_span(record.width)), float(axis_span(record.height)))
    moved: list[DetObject] = []
    for item in record.objects:
        points, share = visible_part(plane.move(item.points, kind=item.kind), kind=item.kind, window=window)
        if points is not None and share >= min_visible:
            moved.append(replace(item, points=points))
    return tuple(moved)


def _mirror(image: Image.Image, settings: Augmentation, generator: random.Random) -> tuple[Image.Image, PlaneMap]:
    plane = PlaneMap()
    if generator.random() < settings.hflip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        plane = PlaneMap(x=AxisMap(-1.0, float(image.width - 1)))
    if generator.random() < settings.vflip:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        plane = plane.then(PlaneMap(y=AxisMap(-1.0, float(image.height - 1))))
    return image, plane


def _crop(image: Image.Image, plane: PlaneMap, record: Record, settings: Augmentation, crop: Crop, generator: random.Random) -> tuple[Image.Image, PlaneMap]:
    """The first window that keeps enough of the objects; picture and map as they are when none does."""
    width, height = image.size
    for _ in range(_ATTEMPTS):
        scale = generator.uniform(crop.min_scale, 1.0)
        (left, wide), (top, high) = (_draw_side(side, scale, generator) for side in image.size)
        enlarged = plane.then(PlaneMap(_enlarge(left, wide, width), _enlarge(top, high, height)))
        if _is_kept(record, enlarged, crop, min_visible=settings.min_visible):
            (x1, x2), (y1, y2) = _source_side(left, wide, width), _source_side(top, high, height)
            return image.resize((width, height), Image.Resampling.BICUBIC, box=(x1, y1, x2, y2)), enlarged
    return image, plane


def _draw_side(side: int, scale: float, generator: random.Random) -> tuple[int, int]:
    """(first pixel, number of pixels) of a window along one side."""
    size = min(side, max(2, round(side * scale)))
    return generator.randint(0, side - size), size


def _enlarge(first: int, size: int, side: int) -> AxisMap:
    """Pixel `first` becomes pixel 0, the last of `size` pixels the last of `side`."""
    scale = axis_span(side) / axis_span(size)
    return AxisMap(scale, -first * scale)


def _source_side(first: int, size: int, side: int) -> tuple[float, float]:
    """What Pillow has to sample, in its coordinates of pixel edges, so that pixel centres move by `_enlarge`."""
    step = axis_span(size) / axis_span(side)
    start = first + (1 - step) / 2
    # rounding must not leave the picture by a trifle: Pillow refuses that
    return start, min(start + step * side, float(first + size))


def _is_kept(record: Record, plane: PlaneMap, crop: Crop, *, min_visible: float) -> bool:
    if not record.objects:
        return True
    window = (0.0, 0.0, float(axis_span(record.width)), float(axis_span(record.height)))
    shares = [visible_part(plane.move(item.points, kind=item.kind), kind=item.kind, window=window)[1] for item in record.objects]
    # a polygon that is cut can have more vertices, and a longer answer may not fit its row
    is_longer = _num_values(move_objects(record, plane, min_visible=min_visible)) > _num_values(record.objects)
    return not is_longer and sum(shares) / len(shares) >= crop.min_coverage


def _num_values(objects: Sequence[DetObject]) -> int:
    return sum(len(item.points) for item in objects)


def _zoom_out(image: Image.Image, plane: PlaneMap, zoom: ZoomOut, generator: random.Random) -> tuple[Image.Image, PlaneMap]:
    width, height = image.size
    scale = generator.uniform(zoom.min_scale, 1.0)
    (left, wide), (top, high) = (_draw_side(side, scale, generator) for side in image.size)
    canvas = Image.new("RGB", image.size, zoom.fill)
    canvas.paste(resize_image(image, width=wide, height=high), (left, top))
    shrink = PlaneMap(AxisMap(axis_span(wide) / axis_span(width), left), AxisMap(axis_span(high) / axis_span(height), top))
    return canvas, plane.then(shrink)


def _colour(image: Image.Image, colour: Colour, generator: random.Random) -> Image.Image:
    strengths = ((ImageEnhance.Brightness, colour.brightness), (ImageEnhance.Contrast, colour.contrast), (ImageEnhance.Color, colour.saturation))
    for enhancer, strength in strengths:
        factor = generator.uniform(1 - strength, 1 + strength)
        if strength:
            image = enhancer(image).enhance(factor)
    turn = round(generator.uniform(-colour.hue, colour.hue) * 256)
    if turn:
        hue, saturation, value = image.convert("HSV").split()
        shifted = hue.point([(level + turn) % 256 for level in range(256)])
        image = Image.merge("HSV", (shifted, saturation, value)).convert("RGB")
    return image
