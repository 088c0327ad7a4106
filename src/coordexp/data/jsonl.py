"""Record files: one JSON object a line, UTF-8. Reading streams and stops at the first broken rule; writing is atomic.

Lines are counted as they stand in the file, from 1; blank ones are passed over. A byte order mark and Windows line ends do no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.data.rules import Notes, RecordReader, Violation
from coordexp.types.errors import DataError
from coordexp.types.files import atomic_writer
from coordexp.types.lines import iter_file_lines
from coordexp.types.records import CoordSpace, DetObject, Record

_BOM = b"\xef\xbb\xbf"
_TOKENS = coord_tokens()
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def iter_records(
    path: Path,
    *,
    coord_space: CoordSpace | None = None,
    limit: int = 0,
    dataset: str = "",
    canonical_polygons: bool = True,
    notes: Notes | None = None,
) -> Iterator[Record]:
    """Records of a file, one at a time.

    Args:
        path: a JSONL file.
        coord_space: space of records that do not name theirs; None refuses records of plain integers.
        limit: stop after so many records; 0 reads all.
        dataset: name of the data set, carried by every record.
        canonical_polygons: refuse polygons whose vertices are not in canonical order.
        notes: receives what is allowed and still worth knowing.

    Raises:
        DataError: no such file, or a record that breaks a rule.
    """
    reader = RecordReader(path.stem, coord_space=coord_space, dataset=dataset, canonical_polygons=canonical_polygons, notes=notes)
    for num_read, record in enumerate(scan_file(path, reader), start=1):
        if record is None:
            raise as_error(path, reader.violations[0])
        yield record
        if num_read == limit:
            return


def read_records(path: Path, *, coord_space: CoordSpace | None = None, limit: int = 0, dataset: str = "") -> list[Record]:
    """All records of a file (`iter_records` tells the arguments and errors)."""
    return list(iter_records(path, coord_space=coord_space, limit=limit, dataset=dataset))


def scan_file(path: Path, reader: RecordReader) -> Iterator[Record | None]:
    """Records in order; None for a line that breaks a rule, `reader.violations` then says which.

    Raises:
        DataError: the file cannot be opened, or a line is too long for a record.
    """
    with open_records(path) as stream:
        yield from scan_lines(iter_file_lines(stream, path), reader)


def scan_lines(lines: Iterable[bytes], reader: RecordReader, *, first: int = 1) -> Iterator[Record | None]:
    """As `scan_file`, of lines that begin with line `first` of a file."""
    for number, line in enumerate(lines, start=first):
        if not is_blank(line, number=number):
            yield read_line(line, reader, number=number)


def open_records(path: Path) -> BinaryIO:
    """The file, open for reading.

    Raises:
        DataError: it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = "the data file does not exist" if missing else f"the data file cannot be read ({error.strerror})"
        raise DataError(what, where=str(path), fix="check the path" if missing else None) from error


def is_blank(line: bytes, *, number: int) -> bool:
    """A line that is passed over."""
    text = strip_mark(line, number=number)
    return text.isspace() or not text


def strip_mark(line: bytes, *, number: int) -> bytes:
    """The line without the byte order mark that a file may begin with."""
    return line.removeprefix(_BOM) if number == 1 else line


def read_line(line: bytes, reader: RecordReader, *, number: int) -> Record | None:
    """The record of line `number`; None for a line that breaks a rule, `reader.violations` then says which."""
    try:
        raw = _decode(strip_mark(line, number=number))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reader.refuse_json(number, f"the line is not JSON in UTF-8 ({error})")
        return None
    except RecursionError:
        reader.refuse_json(number, "the line is nested too deeply")
        return None
    return reader.read(raw, line=number)


def as_error(path: Path, violation: Violation) -> DataError:
    """Example: `train.jsonl:412: objects[3].bbox_2d: x2=120 < x1=180; run 'coordexp data validate train.jsonl' to list all`"""
    where = f"{path}:{violation.line}" + (f": {violation.field}" if violation.field else "")
    return DataError(violation.what, where=where, fix=violation.fix or f"run 'coordexp data validate {path}' to list all")


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write records in their coordinate space; returns how many. The file appears complete or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_lines(path, map(encode_record, records))


def write_lines(path: Path, parts: Iterable[bytes]) -> int:
    """Write whole lines, as many in a part as may be; returns how many parts. The file appears complete or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    num_written = 0
    with atomic_writer(path) as stream:
        for part in parts:
            stream.write(part.decode("utf-8"))
            num_written += 1
    return num_written


def encode_record(record: Record) -> bytes:
    """The record as a line of a file, its end included."""
    return _encode(record_to_json(record)) + b"\n"


def record_to_json(record: Record) -> dict[str, Any]:
    """The line of a record as a JSON object; its id and data set name come from the file, not from the line."""
    is_token = record.coord_space == "token"
    line: dict[str, Any] = {
        "images": [record.image],
        "objects": [_object_to_json(item, is_token=is_token) for item in record.objects],
        "width": record.width,
        "height": record.height,
        "coord_space": record.coord_space,
    }
    if record.summary is not None:
        line["summary"] = record.summary
    if record.metadata:
        line["metadata"] = record.metadata
    return line


def _object_to_json(item: DetObject, *, is_token: bool) -> dict[str, Any]:
    if is_token:
        return {"desc": item.desc, item.kind: [_TOKENS[int(value)] for value in item.points]}
    return {"desc": item.desc, item.kind: [int(value) if value == int(value) else value for value in item.points]}
