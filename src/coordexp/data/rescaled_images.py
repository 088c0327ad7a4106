"""The images of a rescaled data set: written without loss, atomically, with a digest of what each was made from, by one run at a time."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import PIL
from PIL import Image, PngImagePlugin

from coordexp.data.images import load_image, resize_image
from coordexp.types.files import claim, translate_os_errors

_DIGEST_KEY = "coordexp-source"
_COMPRESSION = 3
"""zlib level: a third of the time of the default for a few percent of size."""


class ImageJob(NamedTuple):
    """One image to write; may be sent to another process."""

    source: Path
    target: Path
    width: int
    height: int


def write_image(job: ImageJob) -> bool:
    """True when it was up to date."""
    digest = _digest(job.source, width=job.width, height=job.height)
    if _has_digest(job.target, digest):
        return True
    picture = resize_image(load_image(job.source), width=job.width, height=job.height)
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text(_DIGEST_KEY, digest)
    buffer = BytesIO()
    # a picture without the source's profile, text or EXIF: its bytes depend on the pixels alone
    Image.frombytes("RGB", picture.size, picture.tobytes()).save(buffer, format="PNG", pnginfo=chunk, compress_level=_COMPRESSION)
    _write_bytes(job.target, buffer.getvalue())
    return False


def _digest(source: Path, *, width: int, height: int) -> str:
    content = hashlib.sha256(source.read_bytes()).hexdigest()
    return hashlib.sha256(f"{content} {width}x{height} bicubic pillow={PIL.__version__}".encode()).hexdigest()


def _has_digest(path: Path, digest: str) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get(_DIGEST_KEY) == digest
    except (OSError, SyntaxError, ValueError):  # not there yet, or a foreign file: it is written anew
        return False


def _write_bytes(path: Path, content: bytes) -> None:
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".part")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def image_folder(output: Path) -> Path:
    """Where the images of the record file `output` go: each split has a folder of its own, so that splits never meet."""
    return output.parent / "images" / output.stem


def remove_empty_folders(folders: Iterable[Path], root: Path) -> None:
    """Remove these folders below `root`, and those between, where they are empty."""
    below = {parent for folder in folders for parent in (folder, *folder.parents) if parent.is_relative_to(root) and parent != root}
    for path in sorted(below, key=lambda parent: -len(parent.parts)):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


@contextmanager
def claim_images(output: Path) -> Generator[None]:
    """The folder of the images is ours until the block, or the process, ends; half-written files of a killed run are removed.

    Raises:
        OutputError: another rescale is writing it.
    """
    images = image_folder(output)
    with translate_os_errors(images):
        images.mkdir(parents=True, exist_ok=True)
    try:
        # without locks, two runs at once would only make the same images twice
        with claim(images, who="rescale", fix="wait for it, or choose another folder"):
            for leftover in [*images.rglob(".*.part"), *output.parent.glob(f"{glob.escape(f'.{output.name}.')}*.part")]:
                leftover.unlink(missing_ok=True)
            yield
    finally:
        if not any(images.iterdir()):
            remove_empty_folders([images], output.parent)
