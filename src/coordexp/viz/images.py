"""Where the images of a run lie, and reading them for display. Nothing outside the image root is ever opened."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from PIL import Image

from coordexp.data.images import load_image
from coordexp.data.paths import resolve_image
from coordexp.evaluation.columns import ImageRow
from coordexp.types.errors import DataError

ROOT_VARIABLE = "ROOT_IMAGE_DIR"

_LOSSLESS_SIDE = 320
"""Images up to this side are embedded as PNG: JPEG blurs what little they hold."""


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


def embed_image(picture: Image.Image, *, max_side: int) -> str:
    """A `data:` URI of the picture, scaled down to `max_side` pixels where it is larger."""
    picture = picture.copy()
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if max(picture.size) <= _LOSSLESS_SIDE:
        picture.save(stream, "PNG", optimize=True)
        kind = "png"
    else:
        picture.save(stream, "JPEG", quality=86, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
