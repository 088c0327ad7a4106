"""The data file of an inference run, line by line. A line that breaks a rule stays in its place with the reason: the run goes on without it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec

from coordexp.data.jsonl import as_error
from coordexp.data.rules import RecordReader, Rule, Violation
from coordexp.types.errors import DataError
from coordexp.types.lines import iter_file_lines
from coordexp.types.records import CoordSpace, Record

_BOM = b"\xef\xbb\xbf"
_DIGEST = 16
"""Hex digits of a line's hash that are kept."""


@dataclass(frozen=True, slots=True)
class SourceLine:
    """One line that is not blank: a record, or what is wrong with it."""

    number: int
    """From 1, as it stands in the file."""
    raw: Mapping[str, Any]
    """As decoded; empty when the line is not a JSON object."""
    record: Record | None
    violations: tuple[Violation, ...] = ()
    digest: str = ""
    """Of the line's bytes: which record this is, beside where it stands."""

    @property
    def identity(self) -> tuple[int, str]:
        return self.number, self.digest


@dataclass(frozen=True, slots=True)
class Survey:
    """What the whole file holds, seen before the run starts."""

    num_lines: int
    """Lines that will be read."""
    categories: tuple[str, ...]
    """Names of all objects of the file, sorted."""


def iter_source(path: Path, *, coord_space: CoordSpace | None = None, limit: int = 0) -> Iterator[SourceLine]:
    """The lines of a data file in order; blank lines are passed over.

    Args:
        path: a JSONL file.
        coord_space: space of records that do not name theirs.
        limit: stop after so many lines; 0 reads all.

    Raises:
        DataError: the file cannot be opened, or its plain integers do not say what they are.
    """
    reader = RecordReader(path.stem, coord_space=coord_space)
    for num_read, (number, text) in enumerate(_iter_text(path), start=1):
        line = _read_line(reader, number, text)
        unnamed = next((violation for violation in line.violations if violation.rule is Rule.COORD_SPACE), None)
        if unnamed is not None:
            # the file as a whole is refused: what holds for this record decides how all others are read
            raise as_error(path, unnamed)
        yield line
        if num_read == limit:
            return


def survey_source(path: Path, *, coord_space: CoordSpace | None = None, limit: int = 0) -> Survey:
    """One pass over the whole file; `limit` only bounds `num_lines`.

    Raises:
        DataError: the file cannot be opened, its plain integers do not say what they are, or there is no line.
    """
    num_lines = 0
    categories: set[str] = set()
    for line in iter_source(path, coord_space=coord_space):
        num_lines += 1
        if line.record is not None:
            categories.update(item.desc for item in line.record.objects)
    if num_lines == 0:
        raise DataError("the data file has no records", where=str(path), fix="give a JSONL file with one record a line")
    return Survey(num_lines=min(num_lines, limit or num_lines), categories=tuple(sorted(categories)))


def _iter_text(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        stream = path.open("rb")
    except OSError as error:
        what = "the data file does not exist" if isinstance(error, FileNotFoundError) else f"the data file cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), fix="check the path") from error
    with stream:
        for number, line in enumerate(iter_file_lines(stream, path), start=1):
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                yield number, text


def _read_line(reader: RecordReader, number: int, text: bytes) -> SourceLine:
    digest = hashlib.sha256(text.strip()).hexdigest()[:_DIGEST]
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reader.refuse_json(number, f"the line is not JSON in UTF-8 ({error})")
        return SourceLine(number, {}, None, tuple(reader.violations), digest)
    except RecursionError:
        reader.refuse_json(number, "the line is nested too deeply")
        return SourceLine(number, {}, None, tuple(reader.violations), digest)
    record = reader.read(raw, line=number)
    return SourceLine(number, cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}, record, tuple(reader.violations), digest)
