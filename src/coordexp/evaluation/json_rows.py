"""Rows of JSON files as bytes, thousands at a time: typed structs in, one row a line out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from coordexp.evaluation.columns import Floats

ROWS_AT_ONCE = 2_000

_encode_lines = msgspec.json.Encoder().encode_lines


def portions(count: int, size: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """0..count in slices of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def as_lines(rows: Iterable[Sequence[msgspec.Struct]]) -> Iterator[bytes]:
    """JSONL."""
    return (_encode_lines(part) for part in rows if part)


def as_array(rows: Iterable[Sequence[msgspec.Struct]]) -> Iterator[bytes]:
    """A JSON array with one row a line."""
    separator = b"[\n"
    for part in rows:
        if part:
            # a line end inside of a text is escaped in JSON: those that stand here separate rows
            yield separator + _encode_lines(part).rstrip(b"\n").replace(b"\n", b",\n")
            separator = b",\n"
    yield b"[]\n" if separator == b"[\n" else b"\n]\n"


def plain_numbers(values: Floats) -> list[Any]:
    """Whole numbers as int when all are whole, as pixel mode `int` makes them."""
    is_whole = bool(((values == np.floor(values)) & (np.abs(values) < 2**53)).all())
    return values.astype(np.int64).tolist() if is_whole else values.tolist()
