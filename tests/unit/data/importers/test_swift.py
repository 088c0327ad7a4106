"""Import of a miniature grounding file of ms-swift, every form of `objects` that its releases have taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.swift import import_swift
from coordexp.types.errors import DataError
from coordexp.types.records import Record

WIDTH, HEIGHT = 80, 60


def says(*texts: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]


def rows(root: Path) -> list[dict[str, Any]]:
    sheep = {"ref": ["羊"], "bbox": [[9.5, 10, 30, 40], [40, 10, 90, 40]]}
    dogs = {"ref": ["一只狗", "a woman"], "bbox": [[0.25, 0.5, 0.5, 1.0], [0.0, 0.0, 0.125, 0.25]], "bbox_type": "norm1"}
    walk = {"ref": ["cat", "dog"], "bbox": [[1, 1, 5, 5], [2, 2, 6, 6], [3, 3, 7, 7]]}
    old = [{"caption": "guy", "bbox": [500, 250, 1000, 500], "bbox_type": "norm_1000", "image": 0}]
    return [
        {"messages": says("<image>找到图像中的<ref-object>", "<bbox><bbox>"), "images": ["cow.jpg"], "objects": sheep},
        {"messages": says("<image>描述图像", "<ref-object><bbox>和<ref-object><bbox>"), "images": [str(root / "deep/dog.jpg")], "objects": dogs},
        {"messages": says("<image>", "<ref-object><bbox><bbox><ref-object><bbox>"), "images": [{"path": "cow.jpg", "bytes": None}], "objects": walk},
        {"query": "x", "images": ["deep/dog.jpg"], "objects": json.dumps(old), "width": WIDTH, "height": HEIGHT},
        {"messages": says("<image>", "nothing"), "image": "empty.jpg"},
    ]


@pytest.fixture
def source(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    paint(tmp_path / "pictures/cow.jpg", WIDTH, HEIGHT, mode="L")
    paint(tmp_path / "pictures/deep/dog.jpg", HEIGHT, WIDTH, turned=True)
    paint(tmp_path / "pictures/empty.jpg", WIDTH, HEIGHT)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows(tmp_path / "pictures")]
    (tmp_path / "grounding.jsonl").write_bytes(("\ufeff" + "\r\n".join([*lines, ""])).encode())
    return tmp_path / "grounding.jsonl"


def imported(source: Path, *, merge_rows: bool = False, **options: Any) -> Any:
    folder = source.parent
    return import_swift(source, images=folder / "pictures", output=folder / "out/train.jsonl", merge_rows=merge_rows, options=ImportOptions(**options))


def test_every_box_has_its_name_and_is_in_pixels(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    summary = imported(source)
    records = read_valid(source.parent / "out/train.jsonl")
    assert [[(found.desc, *found.points) for found in record.objects] for record in records] == [
        [("羊", 9.5, 10, 30, 40), ("羊", 40, 10, 79, 40)],
        [("一只狗", 20, 30, 40, 59), ("a woman", 0, 0, 10, 15)],
        [("cat", 1, 1, 5, 5), ("cat", 2, 2, 6, 6), ("dog", 3, 3, 7, 7)],
        [("guy", 40, 15, 79, 30)],
        [],
    ]
    assert [record.image for record in records] == [f"images/train/{name}" for name in ("cow.jpg", "deep/dog.jpg", "cow.jpg", "deep/dog.jpg", "empty.jpg")]
    assert summary.sentence().startswith(
        "5 images (1 without objects), 8 objects, 3 clamped to the border, 2 records about an image that an earlier record is about"
    )


def test_rows_about_one_image_become_one_record_on_demand(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    lines = source.read_bytes().decode("utf-8-sig").splitlines()
    source.write_text("\n".join([lines[0], lines[4], lines[2]]))
    imported(source, merge_rows=True)
    first, second = read_valid(source.parent / "out/train.jsonl")
    assert [found.desc for found in first.objects] == ["羊", "羊", "cat", "cat", "dog"]
    assert (second.image, second.objects) == ("images/train/empty.jpg", ())
    source.write_text("\n".join([lines[1], lines[3]]))
    with pytest.raises(DataError, match=r"row 2: bbox_type differs from that of .*row 1"):
        imported(source, merge_rows=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objects": {"ref": ["a", "b"], "bbox": [[1, 1, 5, 5]]}}, "2 names in ref for 1 boxes, and the messages do not say which"),
        ({"objects": {"ref": ["a"], "bbox": [[1, 1]]}}, r"objects\[0\]: \[1, 1\] is not a box x1, y1, x2, y2; correct the annotation, or skip"),
        ({"objects": {"ref": ["a"], "bbox": [[1, 1, 2, 2]], "bbox_type": "feet"}}, "bbox_type 'feet' is not known; write one of: real, norm1"),
        ({"objects": {"ref": [3], "bbox": [[1, 1, 2, 2]]}}, r"objects\[0\]: 3 is not the name of an object"),
        ({"objects": "{"}, "objects: the text in it is not JSON"),
        ({"objects": 3}, "objects is neither an object nor a list"),
        ({"images": ["a.jpg", "b.jpg"]}, "images: 2 images; a record has one image"),
        ({"images": ["https://x.org/a.jpg"]}, "images: 'https://x.org/a.jpg' is not a path; save the image to a file"),
        ({"images": ["/elsewhere/a.jpg"]}, "/elsewhere/a.jpg does not lie in .*pictures; give a folder above it with --images"),
        ({"images": ["../grounding.jsonl"]}, "leaves the folder"),
        ({"width": WIDTH + 1, "height": HEIGHT}, "is 80x60 .upright., but the annotations say 81x60"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(source: Path, change: dict[str, Any], sentence: str) -> None:
    source.write_text("\n" + json.dumps(rows(source.parent / "pictures")[0] | change) + "\n")
    with pytest.raises(DataError, match=sentence) as caught:
        imported(source)
    assert "grounding.jsonl:2" in str(caught.value)
    assert not (source.parent / "out").exists()


@pytest.mark.parametrize("line", ["{", "[1]"])
def test_a_line_of_another_kind_is_named(source: Path, line: str) -> None:
    source.write_text(line)
    with pytest.raises(DataError, match=r"grounding.jsonl:1: the line is not .*; write one JSON object a line"):
        imported(source)
