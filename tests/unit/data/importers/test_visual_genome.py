"""Import of a miniature objects.json of Visual Genome, compared with the file as the standard library reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.visual_genome import import_visual_genome
from coordexp.types.errors import DataError
from coordexp.types.records import Record

WIDTH, HEIGHT = 50, 40
URL = "https://cs.stanford.edu/people/rak248"


def rows() -> list[dict[str, Any]]:
    def item(number: int, names: list[str], x: int, y: int, w: int, h: int) -> dict[str, Any]:
        return {"object_id": number, "names": names, "synsets": [], "merged_object_ids": [], "x": x, "y": y, "w": w, "h": h}

    return [
        {
            "image_id": 1,
            "image_url": f"{URL}/VG_100K_2/1.jpg",
            "objects": [
                item(10, ["clock"], 4, 5, 10, 12),
                item(11, ["  green tree ", "tree"], -3, 0, 20, 45),
                item(12, ["street sign"], 30, 5, 0, 8),
                item(13, ["café"], 0, 0, WIDTH, HEIGHT),
            ],
        },
        {"image_id": 2, "image_url": f"{URL}/VG_100K/2.jpg", "objects": []},
        {"id": 3, "objects": [{"id": 20, "name": "", "names": ["", "dog"], "x": 1.5, "y": 2, "w": 3, "h": 4}]},
    ]


@pytest.fixture
def source(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    for name in ("VG_100K_2/1.jpg", "VG_100K/2.jpg", "VG_100K/3.jpg"):
        width, height = (HEIGHT, WIDTH) if "3.jpg" in name else (WIDTH, HEIGHT)
        paint(tmp_path / "vg" / name, width, height, mode="L" if "2.jpg" in name else "RGB", turned="3.jpg" in name)
    path = tmp_path / "objects.json"
    path.write_text(json.dumps(rows(), indent=1, ensure_ascii=False), encoding="utf-8-sig", newline="\r\n")
    return path


def test_every_object_equals_its_row_clamped_to_the_image(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    summary = import_visual_genome(source, images=source.parent / "vg", output=source.parent / "out" / "vg.jsonl")
    records = read_valid(source.parent / "out" / "vg.jsonl")
    assert [record.image for record in records] == ["images/vg/VG_100K_2/1.jpg", "images/vg/VG_100K/2.jpg", "images/vg/VG_100K/3.jpg"]
    for record, row in zip(records, rows(), strict=True):
        assert record.metadata["image_id"] == row.get("image_id", row.get("id"))
        expected = [(item["x"], item["y"], item["x"] + item["w"], item["y"] + item["h"]) for item in row["objects"]]
        clamped = [(max(a, 0), max(b, 0), min(c, WIDTH - 1), min(d, HEIGHT - 1)) for a, b, c, d in expected]
        assert [item.points for item in record.objects] == clamped
    assert [item.desc for record in records for item in record.objects] == ["clock", "green tree", "street sign", "café", "dog"]
    assert (summary.num_images, summary.num_empty_images, summary.num_clamped, summary.num_zero_area) == (3, 1, 2, 1)
    assert "1 labels with outer spaces, stripped" in summary.sentence()


def test_an_object_without_any_name_or_of_negative_size_is_an_error_or_counted(source: Path) -> None:
    content = rows()
    content[0]["objects"][0]["names"] = []
    content[0]["objects"][1]["w"] = -1
    source.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"objects.json: \[0\].objects\[0\] \(object_id 10\): the annotation has no label; correct the annotation, or skip"):
        import_visual_genome(source, images=source.parent / "vg", output=source.parent / "out" / "vg.jsonl")
    options = ImportOptions(skip_invalid=True)
    summary = import_visual_genome(source, images=source.parent / "vg", output=source.parent / "out" / "vg.jsonl", options=options)
    assert summary.skipped == {"no_label": 1, "negative_size": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "not a JSON list of images"),
        ('{"images": []}', "not a JSON list of images"),
        ('[{"image_id": 1}]', r"\[0\]: Object missing required field `objects`; an image has image_id and objects"),
        ('[{"image_id": 1, "objects": [{"x": "a"}]}]', r"\[0\].objects\[0\].x: Expected `float`, got `str`"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "objects.json").write_text(text)
    with pytest.raises(DataError, match=sentence):
        import_visual_genome(tmp_path / "objects.json", images=tmp_path, output=tmp_path / "out" / "vg.jsonl")


def test_images_that_are_missing_are_counted_when_that_is_asked_for(source: Path) -> None:
    (source.parent / "vg" / "VG_100K" / "2.jpg").unlink()
    (source.parent / "vg" / "VG_100K" / "3.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"1 of 3 images are missing in .*vg, first 2.jpg; check that this is the folder"):
        import_visual_genome(source, images=source.parent / "vg", output=source.parent / "out" / "vg.jsonl")
    options = ImportOptions(skip_bad_images=True)
    summary = import_visual_genome(source, images=source.parent / "vg", output=source.parent / "out" / "vg.jsonl", options=options)
    assert (summary.num_images, summary.skipped_images) == (1, {"missing": 1, "unreadable": 1})
