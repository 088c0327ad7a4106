"""Lines of a JSONL file as dictionaries, one at a time. A line that cannot be read is counted, or is an error when reading strictly."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from coordexp.types.errors import DataError
from coordexp.types.lines import iter_file_lines

_SNIPPET = 80

_decode = msgspec.json.Decoder().decode


def iter_lines(path: Path, *, on_bad: Callable[[int], None] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that holds a JSON object; blank lines are skipped.

    `on_bad` is called with the number of a line that is not a JSON object; None: such a line is an error.

    Raises:
        DataError: the file cannot be read, or (strict) a line is not a JSON object.
    """
    for number, line in iter_raw_lines(path):
        record = decode_line(line)
        if record is not None:
            yield number, record
        elif on_bad is not None:
            on_bad(number)
        else:
            raise bad_line(path, number, line)


def iter_raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that is not blank.

    Raises:
        DataError: the file cannot be read, or a line is too long for a record.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), fix="give the gt_vs_pred.jsonl of an inference run") from error
    with stream:
        for number, line in enumerate(iter_file_lines(stream, path), start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield number, text


def bad_line(path: Path, number: int, line: bytes, *, fix: str = "repair the line, or leave out --strict-parse to skip and count it") -> DataError:
    """The sentence for a line that is not a JSON object."""
    snippet = line.decode("utf-8", "replace").strip()[:_SNIPPET]
    return DataError(f"not a JSON object: {snippet!r}", where=f"{path}:{number}", fix=fix)


def decode_line(line: bytes) -> dict[str, Any] | None:
    """One line; None when it is not a JSON object. NaN, Infinity and lone surrogates are read as Python's own writer writes them."""
    try:
        value = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            value = without_surrogates(json.loads(line))
        except (ValueError, RecursionError):
            return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def without_surrogates(value: Any) -> Any:
    """Half characters, which JSON may spell and UTF-8 cannot hold, replaced in all texts of a JSON value."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [without_surrogates(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in cast("dict[str, Any]", value).items()}
    return value
