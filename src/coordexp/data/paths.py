"""Image paths of records: relative to the folder of the data file, and never out of it, neither by `..` nor by a link."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from coordexp.types.errors import DataError

_DRIVE = re.compile(r"[A-Za-z]:")


def describe_bad_path(path: str) -> str | None:
    """Why `path` cannot be the image of a record, judged by its spelling alone; None when it can."""
    if not path or "\0" in path:
        return "an empty path" if not path else "a path with a NUL character"
    slashed = path.replace("\\", "/")
    if slashed.startswith("/") or _DRIVE.match(slashed):
        return f"{path!r} is an absolute path"
    normal = posixpath.normpath(slashed)
    if normal == ".." or normal.startswith("../"):
        return f"{path!r} leaves the folder of the data file"
    return None


def resolve_image(root: Path, relative: str, *, where: str | None = None) -> Path:
    """`root / relative`, proven to lie inside `root` after links are followed. The file itself need not exist.

    Args:
        root: folder of the data file.
        relative: the record's image path.
        where: names the record in the error.

    Raises:
        DataError: an absolute path, one that leaves `root` by `..`, or a link to a place outside.
    """
    problem = describe_bad_path(relative)
    if problem is not None:
        raise DataError(problem, where=where, fix="write image paths relative to the folder of the data file and keep the images inside it")
    path = root / relative
    real_root, real = os.path.realpath(root), os.path.realpath(path)
    if real != real_root and not real.startswith(os.path.join(real_root, "")):
        what = f"{relative!r} is a link to {real!r}, outside the folder of the data file"
        raise DataError(what, where=where, fix="copy or hard-link the images into that folder")
    return path


def files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of all folders in it, in no order; links to folders are not followed.

    Raises:
        DataError: a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"the folder cannot be read ({error.strerror})", where=str(error.filename), fix="check its permissions and the path") from error

    for place, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(place, name) for name in names)


def refuse_other_folder(source: Path, target: Path) -> None:
    """Raises DataError: the output of a step within a folder lies elsewhere, or would replace its source."""
    if target.parent.resolve() != source.parent.resolve():
        raise DataError("the output must lie in the folder of its source", where=str(target), fix="image paths are relative to that folder")
    refuse_replacing(target, [source])


def refuse_replacing(target: Path, sources: Iterable[Path]) -> None:
    """Raises DataError: the output would be written over one of the files that it is made from."""
    if any(target.resolve() == source.resolve() for source in sources):
        raise DataError("the output would replace its source", where=str(target), fix="choose another name with --output")
