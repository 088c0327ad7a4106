"""Image files of an import: proven to exist and to have the size that the annotations say, then placed inside the folder of the record file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from coordexp.data.images import read_image_size
from coordexp.data.paths import resolve_image
from coordexp.types.errors import DataError, OutputError
from coordexp.types.files import atomic_folder

_MARKER = ".imported"
"""Says that a folder of images was made here and may be made again."""


def check_image_size(path: Path, *, width: int, height: int, where: str) -> None:
    """Compare the header of an image with what its annotations were made for.

    Raises:
        DataError: a missing or unreadable file, or another size, EXIF rotation applied.
    """
    refuse_other_size(path, read_image_size(path, where=where), (width, height), where=where)


def refuse_other_size(path: Path, actual: tuple[int, int], wanted: tuple[int, int], *, where: str) -> None:
    """Raises DataError: the image has another size than its annotations were made for; both (width, height)."""
    if actual == wanted:
        return
    what = f"the image {path} is {actual[0]}x{actual[1]} (upright), but the annotations say {wanted[0]}x{wanted[1]}"
    turned = " (if its boxes were drawn without EXIF rotation, remove the EXIF orientation from the file)" if actual == wanted[::-1] else ""
    raise DataError(what, where=where, fix=f"use the images that the annotations were made for{turned}")


class ImageStore:
    """The place of the images of one record file. `open_image_store` makes one.

    Images that lie in the folder of the record file stay there. Others are hard-linked, or copied where the file system cannot, to `images/<stem>/`.
    """

    def __init__(self, root: Path | None, *, prefix: PurePosixPath, target: Path | None) -> None:
        self._root = root
        self._prefix = prefix
        self._target = target
        """Folder that is filled; None: the images stay."""
        self.num_linked = self.num_copied = self.num_written = 0

    def find(self, name: str, *, where: str) -> Path | None:
        """The image file of the source; None when it does not exist.

        Raises:
            DataError: a name that leaves the image folder.
        """
        assert self._root is not None, "sources without image folder bring the content of their images"
        path = resolve_image(self._root, name, where=where)
        return path if path.is_file() else None

    def write(self, name: str, content: bytes, *, where: str) -> Path:
        """Store an encoded picture under a name of its own; its path until the store closes.

        Raises:
            DataError: a name that leaves the folder.
        """
        assert self._target is not None
        path = resolve_image(self._target, name, where=where)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.num_written += 1
        return path

    def place(self, name: str, path: Path) -> str:
        """Bring an image file to its place; how a record refers to it."""
        if self._target is not None and not (target := self._target / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another process was faster
                is_linked = link_or_copy(path.resolve(), target)
                self.num_linked += is_linked
                self.num_copied += not is_linked
        return str(self._prefix / name)

    def discard(self, path: Path) -> None:
        """Take a written picture back."""
        path.unlink()
        self.num_written -= 1


@contextmanager
def open_image_store(root: Path | None, output: Path, *, below: str = "") -> Generator[ImageStore]:
    """The store for the record file `output`; what it placed is there when the block ends without an error. A folder of an earlier import is replaced.

    Args:
        root: folder of the source's images; None: they come as bytes.
        output: the record file.
        below: name of a folder in `images/<stem>/`, where several sources fill it.

    Raises:
        DataError: there is no folder `root`.
        OutputError: the folder cannot be written, or somebody else's files lie there.
    """
    if root is not None and not root.is_dir():
        raise DataError(f"the image folder {root} does not exist", fix="check the path")
    folder = output.parent.resolve()
    if root is not None and root.resolve().is_relative_to(folder):
        yield ImageStore(root, prefix=PurePosixPath(root.resolve().relative_to(folder).as_posix()), target=None)
        return
    relative = PurePosixPath("images", output.stem, below)
    if (folder / relative).exists() and not (folder / relative / _MARKER).is_file():
        what = "exists and was not made by an import"
        raise OutputError(what, where=str(folder / relative), fix="choose another output, or use that folder with --images")
    with atomic_folder(folder / relative) as target:
        (target / _MARKER).write_text(f"{root.resolve() if root is not None else 'the annotation source'}\n", encoding="utf-8")
        yield ImageStore(root, prefix=relative, target=target)


def link_or_copy(source: Path, target: Path) -> bool:
    """True when linked.

    Raises:
        FileExistsError: the target is there already.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another device, or a file system without links: a copy says the rest
        with source.open("rb") as content, target.open("xb") as copy:
            shutil.copyfileobj(content, copy)
        return False
    return True


@contextmanager
def no_empty_folders(folder: Path) -> Generator[None]:
    """Folders that had to be made for the output go again when it fails."""
    new = [path for path in [folder, *folder.parents] if not path.exists()]
    try:
        yield
    finally:
        for path in new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
