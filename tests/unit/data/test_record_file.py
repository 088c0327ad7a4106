from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.data.record_file import RecordFile
from coordexp.types.errors import DataError


def line(number: int) -> bytes:
    objects = [{"desc": "é" * (number + 1), "bbox_2d": [1, 2, 3, 4]}]
    record = {"images": [f"{number}.png"], "objects": objects, "width": 64, "height": 48, "coord_space": "pixel"}
    return json.dumps(record, ensure_ascii=False).encode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A byte order mark, Windows line ends, blank lines, no end of line at the end."""
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line(0) + b"\r\n\n" + line(1) + b"\n  \n" + line(2) + b"\n" + line(3))
    return path


def test_records_are_those_of_the_whole_file(file: Path) -> None:
    records = RecordFile(file, dataset="boxes")
    assert list(records) == read_records(file, dataset="boxes")
    assert [records[place].id for place in (3, 0, -1)] == ["train:6", "train:1", "train:6"]
    assert records[1:3] == [records[1], records[2]]
    with pytest.raises(IndexError):
        records[4]
    records.close()


def test_a_limit_takes_the_first_ones_and_a_conversion_changes_each(file: Path) -> None:
    records = RecordFile(file, limit=2, convert=to_norm1000)
    assert list(records) == [to_norm1000(record) for record in read_records(file, limit=2)]


def test_threads_may_ask_at_once(file: Path) -> None:
    records = RecordFile(file)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: records[place % 4].id, range(400)))
    assert found == [records[place % 4].id for place in range(400)]


@pytest.mark.parametrize(("broken", "message"), [(b"{", "not JSON"), (b"[]", "not a JSON object"), (b'{"images": ["a.png"]}', "width")])
def test_a_broken_line_is_named_when_its_turn_comes(tmp_path: Path, broken: bytes, message: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(line(0) + b"\n" + broken + b"\n" + line(2) + b"\n")
    records = RecordFile(path)
    assert (records[0].id, records[2].id) == ("train:1", "train:3")
    with pytest.raises(DataError, match=rf"train\.jsonl:2.*{message}"):
        records[1]


def test_a_missing_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data file does not exist"):
        RecordFile(tmp_path / "none.jsonl")
