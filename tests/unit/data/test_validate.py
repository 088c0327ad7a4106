"""Validation: all errors of a file, counted by rule, as sentences and as JSON."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coordexp.data import chunks
from coordexp.data.validate import describe_violation, validate_file
from coordexp.types.errors import DataError

GOOD: dict[str, Any] = {"images": ["a.png"], "objects": [{"desc": "cat", "bbox_2d": [1, 2, 3, 4]}], "width": 8, "height": 6, "coord_space": "pixel"}


def write(folder: Path, *lines: Any) -> Path:
    (folder / "train.jsonl").write_text("".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in lines))
    return folder / "train.jsonl"


def test_a_clean_file_has_no_errors_and_is_counted(tmp_path: Path) -> None:
    report = validate_file(write(tmp_path, GOOD, GOOD | {"objects": []}))
    assert report.is_valid
    assert report.summary().endswith("train.jsonl: 2 records (2 in pixel), 1 objects, 1 without objects, no errors")
    assert report.remarks() == []


def test_every_error_of_a_file_is_listed_with_line_and_field(tmp_path: Path) -> None:
    both = GOOD | {"objects": [{"desc": "", "bbox_2d": [9, 9, 1, 1]}, {"desc": "dog", "line": [1, 2]}], "width": -1}
    report = validate_file(write(tmp_path, "nonsense", GOOD, both))
    found = [(item.line, item.field, item.rule.value) for item in report.violations]
    assert found == [
        (1, "", "json"),
        (3, "width", "size"),
        (3, "objects[0].desc", "desc"),
        (3, "objects[1].line", "rejected_key"),
        (3, "objects[0].bbox_2d", "box_order"),
        (3, "objects[0].bbox_2d", "box_order"),
    ]
    assert report.counts == {"box_order": 2, "json": 1, "size": 1, "desc": 1, "rejected_key": 1}
    assert report.summary().endswith("6 errors (box_order: 2, json: 1, size: 1, desc: 1, rejected_key: 1)")
    assert describe_violation(Path("train.jsonl"), report.violations[4]) == "train.jsonl:3: objects[0].bbox_2d: x2=1 < x1=9"


def test_the_json_form_holds_every_error_and_can_be_written(tmp_path: Path) -> None:
    report = validate_file(write(tmp_path, GOOD, GOOD | {"height": 0})).to_json()
    assert json.loads(json.dumps(report)) == report
    assert (report["is_valid"], report["num_records"], report["num_errors"], report["errors_by_rule"]) == (False, 2, 1, {"size": 1})
    expected = {"line": 2, "object": None, "field": "height", "rule": "size", "what": "0 is not a whole number above 0", "fix": ""}
    assert report["errors"][0] | {"fix": ""} == expected
    bad = validate_file(write(tmp_path, GOOD | {"objects": [*GOOD["objects"], {"desc": "", "bbox_2d": [1, 2, 3, 4]}]})).to_json()
    assert [(item["object"], item["field"]) for item in bad["errors"]] == [(1, "objects[1].desc")]


def test_what_is_allowed_and_still_worth_knowing_is_remarked(tmp_path: Path) -> None:
    outside = GOOD | {"objects": [{"desc": "cat", "bbox_2d": [1, 2, 8, 6]}], "extra": 1}
    norm = GOOD | {"coord_space": "norm1000"}
    assert validate_file(write(tmp_path, outside, norm)).remarks() == [
        "2 values lie beyond the border of their image and will be clamped by conversion",
        "keys that are not part of the format are ignored: extra (1)",
        "the file mixes pixel and norm1000 records",
    ]


def test_images_are_checked_on_request(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (6, 8)).save(tmp_path / "turned.png")
    (tmp_path / "text.png").write_text("no picture")
    names = ["a.png", "turned.png", "gone.png", "text.png"]
    path = write(tmp_path, *(GOOD | {"images": [name]} for name in names))
    assert validate_file(path).is_valid
    report = validate_file(path, check_images=True)
    assert [(item.line, item.field, item.rule.value) for item in report.violations] == [(number, "images[0]", "image_file") for number in (2, 3, 4)]
    assert "is 6x8 (upright), but the annotations say 8x6" in report.violations[0].what
    assert "does not exist" in report.violations[1].what
    assert "is not an image" in report.violations[2].what


def test_plain_integers_without_a_space_are_an_error_unless_the_caller_names_it(tmp_path: Path) -> None:
    plain = {key: value for key, value in GOOD.items() if key != "coord_space"}
    assert validate_file(write(tmp_path, plain)).counts == {"coord_space": 1}
    assert validate_file(write(tmp_path, plain), coord_space="norm1000").is_valid


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_records_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.jsonl").write_text(text)
    assert validate_file(tmp_path / "train.jsonl").counts == {"no_records": 1}


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data file does not exist"):
        validate_file(tmp_path / "train.jsonl")


def test_memory_grows_neither_with_records_nor_with_errors_that_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 10_000)
    bad = GOOD | {"objects": [{"desc": "cat", "bbox_2d": [9, 9, 1, 1]}] * 5}
    peaks: list[int] = []
    for count in (100, 2000):
        path = write(tmp_path, *([GOOD, bad] * count))
        tracemalloc.start()
        report = validate_file(path, max_errors=3)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (report.num_records, report.num_errors, len(report.violations)) == (2 * count, 10 * count, 3)
    assert peaks[1] < 1.2 * peaks[0] + 20_000


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 40))
def test_a_damaged_line_is_an_error_or_a_record_and_never_a_crash(tmp_path_factory: pytest.TempPathFactory, noise: bytes, start: int, length: int) -> None:
    line = json.dumps(GOOD).encode()
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    path.write_bytes(line[:start] + noise.replace(b"\n", b" ") + line[start + length :] + b"\n")
    report = validate_file(path)
    assert report.num_records <= 1
    assert report.is_valid or report.violations


@pytest.mark.parametrize(
    ("line", "rule"),
    [("[" * 100_000, "json"), (json.dumps(GOOD).replace("[1, 2, 3, 4]", f"[1, 2, {'9' * 400}, 4]"), "value")],
    ids=["nested-deeply", "number-beyond-floats"],
)
def test_what_python_itself_would_fail_on_is_an_error_of_the_line(tmp_path: Path, line: str, rule: str) -> None:
    assert validate_file(write(tmp_path, line)).counts == {rule: 1}
