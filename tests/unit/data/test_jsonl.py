"""Record files: what is read, what is refused and in which words, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.data.jsonl import iter_records, read_records, write_records
from coordexp.data.rules import Notes
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record

BOX = {"desc": "cat", "bbox_2d": [10, 20, 30, 40]}
TOKENS = {"desc": "cat", "bbox_2d": ["<|coord_1|>", "<|coord_2|>", "<|coord_3|>", "<|coord_4|>"]}
TRIANGLE = {"desc": "sail", "poly": [5, 0, 9, 8, 1, 8]}


def line(*objects: Any, **fields: Any) -> dict[str, Any]:
    record = {"images": ["images/1.png"], "objects": list(objects), "width": 640, "height": 480, "coord_space": "pixel"} | fields
    return {key: value for key, value in record.items() if value is not ...}


def write_lines(folder: Path, *lines: Any) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join((item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)) + "\n" for item in lines), encoding="utf-8")
    return path


def error_of(folder: Path, *lines: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_records(write_lines(folder, *lines), **options)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_record_is_read_with_its_line_as_id(tmp_path: Path) -> None:
    path = write_lines(tmp_path, line(BOX), line(summary="two", metadata={"source": "x"}, objects=[]))
    first, second = read_records(path, dataset="pets")
    assert first == Record("train:1", "images/1.png", 640, 480, (DetObject("cat", "bbox_2d", (10, 20, 30, 40)),), "pixel", dataset="pets")
    assert (second.id, second.objects, second.summary, second.metadata) == ("train:2", (), "two", {"source": "x"})


def test_lines_are_counted_as_they_stand_and_blank_ones_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(line(BOX)).encode() + b"\r\n\r\n" + json.dumps(line()).encode())
    assert [record.id for record in read_records(path)] == ["train:1", "train:3"]


def test_reading_streams_and_stops_at_the_limit_before_a_broken_line(tmp_path: Path) -> None:
    path = write_lines(tmp_path, line(BOX), line(BOX), "broken")
    assert len(read_records(path, limit=2)) == 2
    records = iter_records(path)
    assert [next(records).id, next(records).id] == ["train:1", "train:2"]
    with pytest.raises(DataError, match=r"train\.jsonl:3: the line is not JSON in UTF-8"):
        next(records)


@pytest.mark.parametrize(
    ("given", "asked", "objects", "expected"),
    [
        pytest.param("pixel", None, BOX, "pixel", id="named"),
        pytest.param("norm1000", None, BOX, "norm1000", id="named-norm1000"),
        pytest.param("norm1000", "token", BOX, "norm1000", id="bins-are-bins"),
        pytest.param(..., None, TOKENS, "token", id="tokens-speak-for-themselves"),
        pytest.param(..., "norm1000", TOKENS, "token", id="tokens-although-integers-were-asked-for"),
        pytest.param(..., "pixel", BOX, "pixel", id="caller-says-pixel"),
        pytest.param(..., "norm1000", BOX, "norm1000", id="caller-says-norm1000"),
        pytest.param(..., None, {"desc": "cat", "bbox_2d": [1, 2, 3.5, 4]}, "pixel", id="fractions-are-pixels"),
    ],
)
def test_the_space_of_a_record_is_named_or_evident(tmp_path: Path, given: Any, asked: Any, objects: Any, expected: str) -> None:
    (record,) = read_records(write_lines(tmp_path, line(objects, coord_space=given)), coord_space=asked)
    assert record.coord_space == expected


def test_an_empty_record_without_a_space_is_read(tmp_path: Path) -> None:
    (record,) = read_records(write_lines(tmp_path, line(coord_space=...)))
    assert record.objects == ()


ALL = "; run 'coordexp data validate train.jsonl' to list all"
INSIDE = "; write image paths relative to the folder of the data file and keep the images inside it"
OBJECT_ERRORS = [
    ({"desc": "cat", "bbox_2d": [180, 0, 120, 9]}, f".bbox_2d: x2=120 < x1=180{ALL}"),
    ({"desc": "cat", "bbox_2d": [1, 7.5, 2, 7]}, f".bbox_2d: y2=7 < y1=7.5{ALL}"),
    ({"desc": "cat", "bbox_2d": [1, 2, 3]}, ".bbox_2d: 3 values instead of 4; write a box as bbox_2d: [x1, y1, x2, y2]"),
    ({"desc": "cat", "bbox_2d": "1 2 3 4"}, ".bbox_2d: '1 2 3 4' is not a list; write a box as bbox_2d: [x1, y1, x2, y2]"),
    ({"desc": "cat", "bbox_2d": [1, 2, None, 4]}, f".bbox_2d[2]: None is not a number, as coord_space 'pixel' asks for{ALL}"),
    ({"desc": "cat", "bbox_2d": [1, 2, True, 4]}, f".bbox_2d[2]: True is not a number, as coord_space 'pixel' asks for{ALL}"),
    (TOKENS, f".bbox_2d[0]: '<|coord_1|>' is not a number, as coord_space 'pixel' asks for{ALL}"),
    ({"bbox_2d": [1, 2, 3, 4]}, ".desc: missing; write the name of the object"),
    ({"desc": "", "bbox_2d": [1, 2, 3, 4]}, ".desc: empty; write the name of the object"),
    ({"desc": " \t", "bbox_2d": [1, 2, 3, 4]}, ".desc: ' \\t' is not a text with visible characters; write the name of the object"),
    ({"desc": 5, "bbox_2d": [1, 2, 3, 4]}, ".desc: 5 is not a text with visible characters; write the name of the object"),
    ({"desc": "cat"}, ": neither bbox_2d nor poly; give each object exactly one geometry"),
    (BOX | TRIANGLE, ": both bbox_2d and poly; give each object exactly one geometry"),
    ("cat", ": 'cat' is not a JSON object {...}" + ALL),
    ({"desc": "a", "poly": [1, 2, 3, 4]}, ".poly: 4 values, fewer than 3 vertices; write a polygon as poly: [x1, y1, x2, y2, ...], one flat list"),
    ({"desc": "a", "poly": [1, 2, 3, 4, 5, 6, 7]}, ".poly: 7 values, an odd number; write a polygon as poly: [x1, y1, x2, y2, ...], one flat list"),
    (TRIANGLE | {"poly_points": 4}, ".poly_points: 4 for 3 vertices; correct the number or leave it out"),
    (BOX | {"poly_points": 4}, ".poly_points: given without a poly; take the key out"),
    (
        {"desc": "a", "poly": [9, 8, 1, 8, 5, 0]},
        ".poly: the vertices are not in canonical order (no repeated closing vertex, clockwise, from the top-most then left-most vertex);"
        " run 'coordexp data coord --reorder-polygons' on the file",
    ),
]


@pytest.mark.parametrize(("item", "sentence"), OBJECT_ERRORS, ids=[str(item)[:60] for item, _ in OBJECT_ERRORS])
def test_a_broken_object_is_named_with_what_to_do(tmp_path: Path, item: Any, sentence: str) -> None:
    assert error_of(tmp_path, line(BOX), line(BOX, item)) == f"train.jsonl:2: objects[1]{sentence}"


@pytest.mark.parametrize("key", ["bbox", "box", "bboxes", "polygon", "points", "segmentation", "line", "line_points"])
def test_foreign_geometry_keys_are_refused_by_name_alone_or_beside_a_right_one(tmp_path: Path, key: str) -> None:
    for item in ({"desc": "cat", key: [1, 2, 3, 4]}, BOX | {key: [1, 2, 3, 4]}):
        sentence = error_of(tmp_path, line(item))
        assert sentence.startswith(f"train.jsonl:1: objects[0].{key}: this key is not a geometry of the format; ")
        assert "write a box as bbox_2d" in sentence or "write a polygon as poly" in sentence


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"images": ...}, 'images: missing; write "images": ["path/of/the/image.png"]'),
        ({"images": []}, 'images: not a list with one path; write "images": ["path/of/the/image.png"]'),
        ({"images": ["a", "b"]}, "images: 2 images in one record; write one record for each image"),
        ({"images": [3]}, f"images[0]: 3 is not a path{INSIDE}"),
        ({"images": [""]}, f"images[0]: an empty path{INSIDE}"),
        ({"images": ["/data/a.png"]}, f"images[0]: '/data/a.png' is an absolute path{INSIDE}"),
        ({"images": ["C:\\a.png"]}, f"images[0]: 'C:\\\\a.png' is an absolute path{INSIDE}"),
        ({"images": ["a/../../b.png"]}, f"images[0]: 'a/../../b.png' leaves the folder of the data file{INSIDE}"),
        ({"width": ...}, "width: missing; write the width of the image in pixels"),
        ({"height": 0}, "height: 0 is not a whole number above 0; write the height of the image in pixels"),
        ({"width": 640.5}, "width: 640.5 is not a whole number above 0; write the width of the image in pixels"),
        ({"width": True}, "width: True is not a whole number above 0; write the width of the image in pixels"),
        ({"objects": ...}, 'objects: missing; write "objects": [] for an image without objects'),
        ({"objects": {}}, 'objects: {} is not a list; write "objects": [] for an image without objects'),
        ({"summary": 3}, f"summary: 3 is not a text{ALL}"),
        ({"metadata": []}, f"metadata: [] is not a JSON object {{...}}{ALL}"),
        ({"coord_space": "norm"}, "coord_space: 'norm' is not a coordinate space; write pixel, norm1000 or token"),
        (
            {"coord_space": ..., "objects": [BOX]},
            "coord_space: missing, and plain integers can be pixels or norm1000;"
            " say which with data.coord_space (on the command line --coord-space), or write the key into the file",
        ),
    ],
    ids=str,
)
def test_a_broken_record_is_named_with_what_to_do(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    assert error_of(tmp_path, line(**fields)) == f"train.jsonl:1: {sentence}"


RANGE = "; use <|coord_0|> to <|coord_999|>"


@pytest.mark.parametrize(
    ("space", "values", "sentence"),
    [
        ("token", ["<|coord_0|>", "<|coord_0|>", "<|coord_1000|>", "<|coord_9|>"], f"[2]: '<|coord_1000|>' is out of range{RANGE}"),
        ("token", ["<|coord_0|>", "<|coord_0|>", "left", "<|coord_9|>"], f"[2]: 'left' is not a coordinate token{RANGE}"),
        ("token", ["<|coord_0|>", 5, "<|coord_7|>", "<|coord_9|>"], "[1]: 5 among coordinate tokens; write all values of a record in one form"),
        ("token", ["<|coord_9|>", "<|coord_0|>", "<|coord_7|>", "<|coord_9|>"], f": x2=7 < x1=9{ALL}"),
        ("norm1000", [0, 0, 1000, 5], "[2]: 1000 is outside 0..999; if the values are pixels, the coordinate space is pixel"),
        ("norm1000", [-1, 0, 9, 5], "[0]: -1 is outside 0..999; if the values are pixels, the coordinate space is pixel"),
        ("norm1000", [0, 0.5, 9, 5], f"[1]: 0.5 is not a whole number, as coord_space 'norm1000' asks for{ALL}"),
    ],
)
def test_a_value_outside_its_space_is_named(tmp_path: Path, space: str, values: list[Any], sentence: str) -> None:
    broken = line({"desc": "cat", "bbox_2d": values}, coord_space=space)
    assert error_of(tmp_path, broken) == f"train.jsonl:1: objects[0].bbox_2d{sentence}"


def test_a_space_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    sentence = error_of(tmp_path, line(BOX), coord_space="norm1000")
    assert "coord_space: the record says 'pixel', but 'norm1000' was asked for" in sentence


@pytest.mark.parametrize("text", ["[1, 2]", '"x"', "3"])
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    assert error_of(tmp_path, text) == f"train.jsonl:1: the line is not a JSON object {{...}}{ALL}"


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(b'{"images": ["\xff.png"]}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:1: the line is not JSON in UTF-8"):
        read_records(tmp_path / "train.jsonl")


def test_a_file_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: the data file does not exist; check the path"):
        read_records(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_records(tmp_path)


def test_polygons_out_of_order_are_read_on_request(tmp_path: Path) -> None:
    path = write_lines(tmp_path, line({"desc": "a", "poly": [9, 8, 1, 8, 5, 0]}))
    (record,) = iter_records(path, canonical_polygons=False)
    assert record.objects[0].points == (9, 8, 1, 8, 5, 0)


def test_keys_outside_the_format_and_values_beyond_the_border_are_noted(tmp_path: Path) -> None:
    notes = Notes()
    path = write_lines(tmp_path, line(BOX | {"score": 1}, {"desc": "b", "bbox_2d": [0, 0, 640, 480]}, split="train"), line(BOX | {"score": 0}))
    assert len(list(iter_records(path, notes=notes))) == 2
    assert dict(notes.ignored_keys) == {"split": 1, "objects[].score": 2}
    assert notes.num_beyond_border == 2


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    box, ring = DetObject("caf\u00e9 \u732b", "bbox_2d", (1, 2.5, 30, 40)), DetObject("sail", "poly", (5, 0, 9, 8, 1, 8))
    pixel = Record("out:1", "images/1.png", 64, 48, (box, ring), "pixel", summary="s", metadata={"id": 7})
    token = Record("out:2", "images/2.png", 64, 48, (ring,), "token")
    assert write_records(tmp_path / "out.jsonl", [pixel, token]) == 2
    assert read_records(tmp_path / "out.jsonl") == [pixel, token]
    first, second = (json.loads(text) for text in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["objects"][0] == {"desc": "caf\u00e9 \u732b", "bbox_2d": [1, 2.5, 30, 40]}
    assert second["objects"][0]["poly"][:2] == ["<|coord_5|>", "<|coord_0|>"]
    assert "caf\u00e9" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_lines(tmp_path, line(BOX), line({"desc": "x"}))
    before = path.read_text()
    with pytest.raises(DataError):
        write_records(path, iter_records(path))
    assert path.read_text() == before
    assert [item.name for item in tmp_path.iterdir()] == ["train.jsonl"]
