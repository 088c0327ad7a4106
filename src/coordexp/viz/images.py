"""Where the images of a run lie, and reading them for display. Nothing outside the image root is ever opened."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coordexp.data.images import load_image
from coordexp.data.paths import resolve_image
from coordexp.evaluation.columns import EvaluationSet, ImageRow
from coordexp.types.errors import DataError

ROOT_VARIABLE = "ROOT_IMAGE_DIR"

_SMALL_SIDE = 320
"""Images up to this side are embedded without visible loss: JPEG blurs what little they hold."""


def picture_threads(asked: int) -> int:
    """Threads for reading and writing pictures: as asked; 0: one a processor, at most 4 (then the disk is what they wait for)."""
    return asked or min(4, os.cpu_count() or 1)


def choose_image_root(pred_jsonl: Path, *, asked: Path | None, recorded: str | None) -> Path:
    """The folder that image paths count from: as asked, the environment's ROOT_IMAGE_DIR, what inference recorded, else the folder of the file.

    Raises:
        DataError: the chosen folder does not exist.
    """
    named = os.environ.get(ROOT_VARIABLE)
    source, root = ("--root_image_dir", asked) if asked is not None else (ROOT_VARIABLE, Path(named)) if named else ("the run", None)
    if root is None:
        root = Path(recorded) if recorded else pred_jsonl.parent
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist", where=source, fix="give the folder that image paths count from with --root_image_dir")
    return root


def open_image(root: Path, image: ImageRow) -> Image.Image:
    """The image of a record, upright, RGB.

    Raises:
        DataError: the path leaves the root, or there is no readable image.
    """
    return load_image(resolve_image(root, image.file_name))


def frame_size(data: EvaluationSet, place: int) -> tuple[int, int]:
    """(width, height) that the objects of an image count in; where the data do not say it, as far as the objects reach."""
    image = data.images[place]
    if image.width and image.height:
        return image.width, image.height
    corners = np.concatenate([table.boxes[table.image == place, 2:] for table in (data.gt, data.pred)])
    width, height = np.ceil(corners.max(axis=0, initial=1.0)).astype(np.int64).tolist()
    return width, height


def embed_picture(picture: Image.Image, *, side: int) -> str:
    """A `data:` URI of the picture, with sides of at most `side` pixels."""
    if max(picture.size) > min(side, _SMALL_SIDE):
        return _data_uri("jpeg", _encoded(shrink(picture, side), "JPEG", quality=82, optimize=True))
    exact, close = _encoded(picture, "PNG", optimize=True), _encoded(picture, "JPEG", quality=93, subsampling=0, optimize=True)
    return _data_uri("jpeg", close) if 2 * len(close) < len(exact) else _data_uri("png", exact)


def shrink(picture: Image.Image, max_side: int) -> Image.Image:
    """A copy with sides of at most `max_side` pixels, in the same proportions."""
    picture = picture.copy()
    picture.thumbnail((max_side, max_side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
