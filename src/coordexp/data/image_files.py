"""Image files of an import: proven to exist and to have the size that the annotations say, then placed inside the folder of the record file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from coordexp.data.images import read_image_size
from coordexp.data.paths import resolve_image
from coordexp.types.errors import DataError, OutputError
from coordexp.types.files import atomic_folder
from coordexp.types.progress import Progress

_MARKER = ".imported"
"""Says that a folder of images was made here and may be made again."""


@dataclass(frozen=True, slots=True)
class PlacedImages:
    """Where the images of a source lie now."""

    names: Mapping[str, str]
    """File name in the source → path relative to the folder of the record file."""
    num_linked: int = 0
    num_copied: int = 0


def check_image_size(path: Path, *, width: int, height: int, where: str) -> None:
    """Compare the header of an image with what its annotations were made for.

    Raises:
        DataError: a missing or unreadable file, or another size, EXIF rotation applied.
    """
    actual = read_image_size(path, where=where)
    if actual == (width, height):
        return
    what = f"the image {path} is {actual[0]}x{actual[1]} (upright), but the annotations say {width}x{height}"
    turned = " (if its boxes were drawn without EXIF rotation, remove the EXIF orientation from the file)" if actual == (height, width) else ""
    raise DataError(what, where=where, fix=f"use the images that the annotations were made for{turned}")


def check_image_files(root: Path, sizes: Mapping[str, tuple[int, int]], *, where: str, progress: Progress) -> None:
    """Prove that every file exists below `root` and has the size (width, height) given for it.

    Raises:
        DataError: no such folder, missing files (counted, the first named), a path that leaves `root`, another size.
    """
    if not root.is_dir():
        raise DataError(f"the image folder {root} does not exist", where=where, fix="check the path")
    missing = [name for name in sizes if not resolve_image(root, name, where=where).is_file()]
    if missing:
        what = f"{len(missing)} of {len(sizes)} images are missing in {root}, first {missing[0]}"
        raise DataError(what, where=where, fix="check that this is the folder that the file names are relative to")
    for name, (width, height) in progress.track(sizes.items(), "check images", total=len(sizes)):
        check_image_size(root / name, width=width, height=height, where=where)


def place_images(root: Path, names: Sequence[str], *, output: Path, progress: Progress) -> PlacedImages:
    """Bring the images below `root` into the folder of the record file `output`, unless they lie there already.

    They are hard-linked, or copied where the file system cannot, to `images/<stem of output>/`. A folder that an earlier import made there is replaced
    as a whole.

    Raises:
        OutputError: the folder cannot be written, or somebody else's files lie there.
    """
    folder = output.parent.resolve()
    if root.resolve().is_relative_to(folder):
        inside = PurePosixPath(root.resolve().relative_to(folder).as_posix())
        return PlacedImages({name: str(inside / name) for name in names})
    relative = PurePosixPath("images") / output.stem
    if (folder / relative).exists() and not (folder / relative / _MARKER).is_file():
        what = "exists and was not made by an import"
        raise OutputError(what, where=str(folder / relative), fix="choose another output, or use that folder with --images")
    num_linked = 0
    with atomic_folder(folder / relative) as target:
        (target / _MARKER).write_text(f"{root.resolve()}\n", encoding="utf-8")
        for name in progress.track(names, "link images", total=len(names)):
            num_linked += _link_or_copy((root / name).resolve(), target / name)
    return PlacedImages({name: str(relative / name) for name in names}, num_linked=num_linked, num_copied=len(names) - num_linked)


def _link_or_copy(source: Path, target: Path) -> bool:
    """True when linked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another device, or a file system without links: a copy says the rest
        shutil.copyfile(source, target)
        return False
    return True
