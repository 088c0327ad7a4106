"""Import of a miniature LVIS file, compared with pycocotools and with the file itself: a grey and a turned picture, Windows line ends, a box without width."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from coordexp.data.importers.lvis import import_lvis
from coordexp.data.importers.options import ImportOptions
from coordexp.types.errors import DataError
from coordexp.types.records import Record

WIDTH, HEIGHT = 40, 30
URL = "http://images.cocodataset.org"


def document() -> dict[str, Any]:
    def image(number: int, folder: str, negative: list[int], partial: list[int]) -> dict[str, Any]:
        fields = {"coco_url": f"{URL}/{folder}/{number:012d}.jpg", "neg_category_ids": negative, "not_exhaustive_category_ids": partial}
        return {"id": number, "width": WIDTH, "height": HEIGHT, "license": 3, **fields}

    def annotation(number: int, image_id: int, category: int, bbox: list[float], rings: list[list[float]]) -> dict[str, Any]:
        return {"id": number, "image_id": image_id, "category_id": category, "bbox": bbox, "area": 1.0, "segmentation": rings}

    return {
        "images": [image(5, "val2017", [9, 2], []), image(8, "train2017", [], [7]), image(11, "train2017", [7, 9], [])],
        "annotations": [
            annotation(1, 8, 7, [1.5, 2.25, 10.0, 12.0], [[1.5, 2.25, 11.5, 2.25, 11.5, 14.25, 1.5, 14.25]]),
            annotation(2, 5, 7, [30.0, 20.0, 10.0, 10.0], [[30, 20, 40, 20, 40, 30], [31, 29, 32, 29, 32, 30]]),
            annotation(3, 8, 9, [0.0, 0.0, 0.0, 5.0], [[0, 0, 5, 0, 5, 5]]),
        ],
        "categories": [
            {"id": 7, "name": "bow_(decorative_ribbons)", "synset": "bow.n.08", "frequency": "f", "synonyms": ["bow_(decorative_ribbons)"]},
            {"id": 2, "name": "aerosol_can", "frequency": "c"},
            {"id": 9, "name": "crêpe", "frequency": "r"},
        ],
    }


@pytest.fixture
def source(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    for image in document()["images"]:
        name = image["coco_url"].removeprefix(f"{URL}/")
        width, height = (HEIGHT, WIDTH) if image["id"] == 8 else (WIDTH, HEIGHT)
        paint(tmp_path / "coco" / name, width, height, mode="L" if image["id"] == 5 else "RGB", turned=image["id"] == 8)
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(document(), indent=1, ensure_ascii=False), encoding="utf-8", newline="\r\n")
    return path


def test_objects_equal_what_pycocotools_reads(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    output = source.parent / "out" / "val.jsonl"
    summary = import_lvis(source, images=source.parent / "coco", output=output)
    coco = COCO(str(source))
    records = read_valid(output)
    assert [record.metadata["image_id"] for record in records] == [5, 8, 11]
    for record in records:
        theirs = coco.loadAnns(coco.getAnnIds(imgIds=record.metadata["image_id"]))
        assert [item.desc for item in record.objects] == [coco.cats[row["category_id"]]["name"] for row in theirs]
        for item, row in zip(record.objects, theirs, strict=True):
            x, y, width, height = row["bbox"]
            assert item.points == (x, y, min(x + width, WIDTH - 1), min(y + height, HEIGHT - 1))
    assert (summary.num_images, summary.num_empty_images, summary.num_objects) == (3, 1, 3)
    assert (summary.num_clamped, summary.num_zero_area) == (1, 1)


def test_what_is_absent_or_incomplete_is_kept_in_the_metadata_as_ids_and_names(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    output = source.parent / "out" / "val.jsonl"
    import_lvis(source, images=source.parent / "coco", output=output, options=ImportOptions(geometry="poly"))
    for record, image in zip(read_valid(output), document()["images"], strict=True):
        assert record.metadata["neg_category_ids"] == image["neg_category_ids"]
        assert record.metadata["not_exhaustive_category_ids"] == image["not_exhaustive_category_ids"]
        assert {item.kind for item in record.objects} <= {"poly"}
    first, second, _ = read_valid(output)
    assert first.metadata["neg_categories"] == ["crêpe", "aerosol_can"]
    assert second.metadata["not_exhaustive_categories"] == ["bow_(decorative_ribbons)"]


def test_images_may_lie_in_one_folder_without_that_of_their_split(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    flat = source.parent / "flat"
    flat.mkdir()
    for path in (source.parent / "coco").glob("*/*.jpg"):
        path.rename(flat / path.name)
    import_lvis(source, images=flat, output=source.parent / "out" / "val.jsonl")
    assert read_valid(source.parent / "out" / "val.jsonl")[0].image == "images/val/000000000005.jpg"


def test_an_image_without_an_address_is_an_error(source: Path) -> None:
    content = document()
    del content["images"][1]["coco_url"]
    source.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"lvis_v1_val.json: images\[1\] \(id 8\): the address '' names no file"):
        import_lvis(source, images=source.parent / "coco", output=source.parent / "out" / "val.jsonl")
