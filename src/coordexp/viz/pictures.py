"""Ground truth and prediction side by side, as PNG files. Small images are enlarged so that labels stay legible; a class has the same colour everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from coordexp.evaluation.columns import EvaluationSet, ObjectTable
from coordexp.types.errors import DataError
from coordexp.types.files import translate_os_errors
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.images import frame_size, open_image, picture_threads
from coordexp.viz.palette import class_color, readable_on

PANEL_SIDE = 640
"""Longer side of a panel in pixels of the picture; larger images are scaled down to it, smaller ones up."""

_MARGIN, _TITLE, _GAP = 16, 34, 16
_PAPER, _INK, _MUTED, _EMPTY = (250, 250, 249), (28, 30, 33), (104, 110, 118), (226, 228, 231)
_FONT_SIZE = 14
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf")


@dataclass(frozen=True, slots=True)
class DrawnObject:
    """One outline. Example: `DrawnObject(desc="cat", ring=(10, 10, 50, 10, 50, 40, 10, 40), score=0.93)`"""

    desc: str
    ring: tuple[float, ...]
    """Flat ring in pixels of the record."""
    score: float | None = None

    @property
    def label(self) -> str:
        return self.desc if self.score is None else f"{self.desc} {self.score:.2f}"


@dataclass(frozen=True, slots=True)
class PicturesWritten:
    """`unreadable` images were drawn on an empty ground."""

    files: tuple[Path, ...]
    unreadable: tuple[str, ...]


def write_pictures(
    data: EvaluationSet, images: Sequence[int], *, root: Path, folder: Path, num_threads: int = 0, progress: Progress | None = None
) -> PicturesWritten:
    """`vis_0000.png`, `vis_0001.png`, … for the images at these positions of `data.images`, in this order.

    An image that cannot be read leaves an empty ground with its boxes and is reported. `num_threads`: see `picture_threads`.

    Raises:
        DataError: not one of the images can be read.
        OutputError: a picture cannot be written.
    """
    gt_ranges, pred_ranges = data.gt.ranges(len(data.images)).tolist(), data.pred.ranges(len(data.images)).tolist()

    def draw(number: int, place: int) -> tuple[Path, str | None]:
        row, photo, problem = data.images[place], None, None
        try:
            photo = open_image(root, row)
        except DataError as error:
            problem = str(error)
        gt = drawn_objects(data, data.gt, range(gt_ranges[place], gt_ranges[place + 1]))
        pred = drawn_objects(data, data.pred, range(pred_ranges[place], pred_ranges[place + 1]))
        picture = draw_pair(photo, gt=gt, pred=pred, size=frame_size(data, place), title=row.file_name)
        return _save(picture, folder / f"vis_{number:04d}.png"), problem

    with ThreadPoolExecutor(max_workers=picture_threads(num_threads)) as pool:
        drawn = list((progress or NoProgress()).track(pool.map(draw, range(len(images)), images), "draw", total=len(images)))
    files, unreadable = [path for path, _ in drawn], [problem for _, problem in drawn if problem is not None]
    if images and len(unreadable) == len(images):
        raise DataError(f"no image can be read: {unreadable[0]}", where=str(root), fix="give the folder that image paths count from with --root_image_dir")
    return PicturesWritten(tuple(files), tuple(unreadable))


def drawn_objects(data: EvaluationSet, table: ObjectTable, rows: range) -> list[DrawnObject]:
    """The objects of some rows, outlines in pixels."""
    found: list[DrawnObject] = []
    for row in rows:
        ring = table.polygons.get(row)
        x1, y1, x2, y2 = table.boxes[row].tolist()
        score = float(table.scores[row])
        outline = (x1, y1, x2, y1, x2, y2, x1, y2) if ring is None else tuple(ring.tolist())
        found.append(DrawnObject(data.descs[int(table.desc[row])], outline, None if math.isnan(score) else score))
    return found


def draw_pair(photo: Image.Image | None, *, gt: Sequence[DrawnObject], pred: Sequence[DrawnObject], size: tuple[int, int], title: str) -> Image.Image:
    """One picture: title, then both panels. `size` is the width and height that the outlines count in."""
    scale = PANEL_SIDE / max(size)
    panel = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    # a picture of a very narrow image still has room for its titles
    column = max(panel[0], 260)
    width = 2 * _MARGIN + 2 * column + _GAP
    canvas = Image.new("RGB", (width, 2 * _TITLE + panel[1] + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _TITLE // 2), _shorten(title, width - 2 * _MARGIN), font=_font(15, title), fill=_INK, anchor="lm")
    ground = Image.new("RGB", panel, _EMPTY) if photo is None else photo.resize(panel, Image.Resampling.LANCZOS)
    for place, (name, objects) in enumerate((("ground truth", gt), ("prediction", pred))):
        left = _MARGIN + place * (column + _GAP)
        note = " (image not readable)" if photo is None else ""
        draw.text((left, _TITLE + _TITLE // 2 - 4), f"{name}: {len(objects)}{note}", font=_font(13, name), fill=_MUTED, anchor="lm")
        canvas.paste(_draw_panel(ground.copy(), objects, scale=scale), (left, 2 * _TITLE - 6))
    return canvas


def draw_predictions(photo: Image.Image, objects: Sequence[DrawnObject]) -> Image.Image:
    """One panel: the picture, its longer side scaled to `PANEL_SIDE`, with outlines and names."""
    scale = PANEL_SIDE / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return _draw_panel(photo.resize(size, Image.Resampling.LANCZOS), objects, scale=scale)


def save_picture(picture: Image.Image, path: Path) -> None:
    """As PNG; raises OutputError when it cannot be written."""
    _save(picture, path)


def _draw_panel(panel: Image.Image, objects: Sequence[DrawnObject], *, scale: float) -> Image.Image:
    """Outlines first, then labels, so that no outline crosses a label."""
    draw = ImageDraw.Draw(panel)
    for item in objects:
        points = [(x * scale, y * scale) for x, y in zip(item.ring[0::2], item.ring[1::2], strict=True)]
        closed = [*points, points[0]]
        draw.line(closed, fill=(0, 0, 0), width=5, joint="curve")
        draw.line(closed, fill=class_color(item.desc), width=3, joint="curve")
    taken: list[tuple[float, float, float, float]] = []
    for item in sorted(objects, key=lambda item: (item.ring[1], item.ring[0])):
        taken.append(_draw_label(draw, item, scale=scale, size=panel.size, taken=taken))
    return panel


def _draw_label(
    draw: ImageDraw.ImageDraw, item: DrawnObject, *, scale: float, size: tuple[int, int], taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float, float, float]:
    """A filled tag at the object: above it, below it, or inside, at the first place that no other tag takes. Returns its rectangle."""
    color = class_color(item.desc)
    text = _shorten(item.label, size[0] - 8)
    font = _font(_FONT_SIZE, text)
    width, height = draw.textlength(text, font=font) + 8, _FONT_SIZE + 6
    xs, ys = item.ring[0::2], item.ring[1::2]
    left, top, bottom = min(xs) * scale - 2, min(ys) * scale, max(ys) * scale
    places = [(left, top - height), (left, bottom), (left, top), (left, bottom - height), (max(xs) * scale - width + 2, top - height)]
    inside = [_clamp(place, width, height, size) for place in places]
    free = [place for place in inside if not any(_touches(place, width, height, other) for other in taken)]
    x, y = (free or inside)[0]
    draw.rectangle((x, y, x + width, y + height), fill=color)
    draw.text((x + 4, y + height / 2), text, font=font, fill=readable_on(color), anchor="lm")
    return (x, y, x + width, y + height)


def _clamp(place: tuple[float, float], width: float, height: float, size: tuple[int, int]) -> tuple[float, float]:
    return min(max(place[0], 0), max(size[0] - width - 1, 0)), min(max(place[1], 0), max(size[1] - height - 1, 0))


def _touches(place: tuple[float, float], width: float, height: float, other: tuple[float, float, float, float]) -> bool:
    return place[0] < other[2] and other[0] < place[0] + width and place[1] < other[3] and other[1] < place[1] + height


def _shorten(text: str, width: float) -> str:
    """Cut so that about `width` pixels hold it; line breaks become spaces."""
    plain = " ".join(text.split())
    limit = max(4, int(width / (0.58 * _FONT_SIZE)))
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


@cache
def _named_font(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; for texts beyond Latin letters a font of the system that has more, where there is one."""
    if any(ord(letter) > 0x24F and letter != "…" for letter in text):
        for name in _WIDE_FONTS:
            font = _named_font(name, size)
            if font is not None:
                return font
    return ImageFont.load_default(size)


def _save(picture: Image.Image, path: Path) -> Path:
    with translate_os_errors(path):
        picture.save(path, "PNG")
    return path
