"""A line of any length is read in bounded memory, by every reader of lines that others wrote."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.data.diagnosis.survey import survey_file
from coordexp.data.importers.swift import import_swift
from coordexp.data.jsonl import iter_records
from coordexp.data.record_file import RecordFile
from coordexp.data.validate import validate_file
from coordexp.evaluation.lines import iter_lines
from coordexp.pipeline.source import iter_source
from coordexp.types.errors import DataError
from coordexp.types.lines import MAX_LINE_BYTES

RECORD = {"images": ["a.png"], "objects": [], "width": 8, "height": 8, "coord_space": "pixel"}
HUGE = 200 << 20


def _drain(items: Iterable[Any]) -> None:
    for _ in items:
        pass


READERS: dict[str, Callable[[Path], Any]] = {
    "records": lambda path: _drain(iter_records(path)),
    "streamed records": RecordFile,
    "validate": validate_file,
    "doctor": survey_file,
    "infer": lambda path: _drain(iter_source(path)),
    "evaluate": lambda path: _drain(iter_lines(path, on_bad=lambda number: None)),
    "swift": lambda path: import_swift(path, images=path.parent, output=path.with_name("out.jsonl")),
}


@pytest.mark.parametrize("reader", READERS, ids=str)
def test_a_line_of_200_megabytes_is_refused_in_bounded_memory(reader: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as stream:
        stream.write(json.dumps(RECORD).encode() + b"\n")
        stream.truncate(HUGE)  # no block of the disk holds them
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"huge\.jsonl:2: the line is longer than 16 MiB"):
            READERS[reader](path)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 4 * MAX_LINE_BYTES
