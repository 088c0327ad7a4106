"""Lines of JSONL files, with a bound on what one line may hold: a file without line ends is not read into memory whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from coordexp.types.errors import DataError

MAX_LINE_BYTES: Final = 16 << 20
"""A record with a hundred thousand objects is shorter."""


def iter_file_lines(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Lines as `stream` itself yields them; `path` names the file in the error.

    Raises:
        DataError: a line is longer than `MAX_LINE_BYTES`.
    """
    for number, line in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES + 1), b""), start=1):
        if len(line) > MAX_LINE_BYTES:
            what = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
            raise DataError(what, where=f"{path}:{number}", fix="write one JSON object a line, without the content of images")
        yield line
