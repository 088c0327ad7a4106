"""Names of image files from the addresses that annotation files give instead."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from coordexp.types.errors import DataError


def name_from_url(url: str, root: Path, *, where: str) -> str:
    """The last folder and file of the address when they lie below `root`, else the file alone.

    Example: `http://images.cocodataset.org/train2017/000000391895.jpg` is `train2017/000000391895.jpg` or `000000391895.jpg`.

    Raises:
        DataError: the address names no file.
    """
    try:
        parts = [part for part in unquote(urlsplit(url).path).split("/") if part]
    except ValueError:  # a host in brackets that is none
        parts = []
    if not parts:
        raise DataError(f"the address {url!r} names no file", where=where, fix="correct the address or take the image out")
    both = "/".join(parts[-2:])
    return both if (root / both).is_file() else parts[-1]
