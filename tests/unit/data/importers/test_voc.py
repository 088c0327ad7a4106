"""Import of a miniature Pascal VOC folder, compared with lxml and with the loader of the library supervision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
from lxml import etree
from PIL import Image

from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.voc import import_voc
from coordexp.types.errors import DataError
from coordexp.types.records import Record

WIDTH, HEIGHT = 40, 30


def xml(name: str, objects: str, *, size: str = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>") -> str:
    return f"<annotation><folder>VOC2012</folder><filename>{name}</filename>{size}<segmented>1</segmented>{objects}</annotation>"


def item(name: str, x1: str, y1: str, x2: str, y2: str, extra: str = "") -> str:
    box = f"<bndbox><xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox>"
    return f"<object><name>{name}</name><difficult>0</difficult>{extra}{box}</object>"


PART = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
FILES = {
    "2007_000027": xml("2007_000027.jpg", item("person", "1", "1", "40", "30", PART) + item("\n chien été ", "10.5", "2", "20", "12")),
    "2007_000032": xml("C:\\photos\\other.JPG", item("cat", "5", "6", "5", "9").replace("<difficult>0", "<difficult>1"), size="<size><width>0</width></size>"),
    "2007_000033": xml("2007_000033.jpg", "").replace("<annotation>", "<annotation>\r\n"),
}


@pytest.fixture
def root(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    """Objects with parts, a wrong file name, a size of zero, no objects, Windows line ends, two encodings, a grey and a turned picture."""
    root = tmp_path / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main", "SegmentationObject"):
        (root / folder).mkdir(parents=True)
    encodings = {"2007_000027": "utf-16", "2007_000032": "iso-8859-1", "2007_000033": "utf-8"}
    for stem, text in FILES.items():
        head = f'<?xml version="1.0" encoding="{encodings[stem]}"?>'
        (root / "Annotations" / f"{stem}.xml").write_bytes((head + text).encode(encodings[stem]))
    paint(root / "JPEGImages/2007_000027.jpg", WIDTH, HEIGHT)
    paint(root / "JPEGImages/2007_000032.JPG", 20, 10, mode="L")
    paint(root / "JPEGImages/2007_000033.jpg", HEIGHT, WIDTH, turned=True)
    (root / "ImageSets/Main/train.txt").write_text("2007_000033\r\n2007_000027\r\n")
    (root / "ImageSets/Main/cat_val.txt").write_text("2007_000032  1\n2007_000033 -1\n")
    return root


def imported(root: Path, *, split: str | None = None, first_pixel: int = 1, skip_difficult: bool = False, **options: Any) -> Any:
    output = root.parent / "out" / "voc.jsonl"
    return import_voc(root, output=output, split=split, first_pixel=first_pixel, skip_difficult=skip_difficult, options=ImportOptions(**options))


def test_every_object_equals_what_lxml_and_supervision_read_up_to_clamping(root: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    summary = imported(root)
    records = read_valid(root.parent / "out" / "voc.jsonl")
    assert [record.metadata["source"] for record in records] == [f"{stem}.xml" for stem in FILES]
    _, _, theirs = sv.dataset.formats.pascal_voc.load_pascal_voc_annotations(str(root / "JPEGImages"), str(root / "Annotations"))
    boxes = {Path(path).stem: detections.xyxy for path, detections in theirs.items()}
    for record in records:
        elements = etree.parse(str(root / "Annotations" / record.metadata["source"])).xpath("/annotation/object")
        assert [found.desc for found in record.objects] == [element.findtext("name").strip() for element in elements]
        corners = np.array([[float(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")] for element in elements]).reshape(-1, 4)
        expected = np.clip(corners - [1, 1, 0, 0], 0, [record.width - 1, record.height - 1] * 2)
        assert np.array([found.points for found in record.objects]).reshape(-1, 4) == pytest.approx(expected, abs=0)
        if record.metadata["source"] != "2007_000032.xml":  # supervision finds no picture named in capitals
            assert expected == pytest.approx(np.clip(boxes[Path(record.image).stem], 0, [record.width - 1, record.height - 1] * 2), abs=1e-4)
    assert [(record.width, record.height) for record in records] == [(WIDTH, HEIGHT), (20, 10), (WIDTH, HEIGHT)]
    assert (summary.num_images, summary.num_empty_images, summary.num_objects, summary.num_clamped) == (3, 1, 3, 1)
    notes = {"images without a size in their annotation": 1, "images found by the name of their annotation": 1, "objects marked as difficult": 1}
    assert {what: count for what, count in summary.notes.items() if count} == notes


def test_splits_difficult_objects_and_the_first_pixel_are_options(root: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    output = root.parent / "out" / "voc.jsonl"
    imported(root, split="train", first_pixel=0)
    records = read_valid(output)
    assert [record.metadata["source"] for record in records] == ["2007_000033.xml", "2007_000027.xml"]
    assert records[1].objects[1].points == (10.5, 2, 20, 12)
    summary = imported(root, split="cat_val", skip_difficult=True)
    assert (summary.num_images, summary.num_objects, summary.notes["objects left out as difficult"]) == (2, 0, 1)
    with pytest.raises(DataError, match=r"ImageSets/Main/test.txt: the split does not exist; choose one of: cat_val, train"):
        imported(root, split="test")


def test_polygons_come_from_the_masks_of_objects_or_from_polygon_elements(root: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[2:12, 10:20] = 2
    mask[20:25, 5:9] = 1
    mask[0] = 255
    picture = Image.fromarray(mask, mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(root / "SegmentationObject/2007_000027.png")
    corners = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate([(1, 1), (9, 1), (9, 6)], start=1))
    traced = item("cat", "1", "1", "9", "6", f"<polygon>{corners}</polygon>")
    (root / "Annotations/2007_000033.xml").write_text(xml("2007_000033.jpg", traced))
    imported(root, split="train", geometry="poly")
    first, second = read_valid(root.parent / "out" / "voc.jsonl")
    assert first.objects[0].points == (0, 0, 8, 0, 8, 5)
    assert [found.points for found in second.objects] == [(5, 20, 9, 20, 9, 25, 5, 25), (10, 2, 20, 2, 20, 12, 10, 12)]


def test_a_segmentation_of_another_size_or_kind_is_said(root: Path) -> None:
    path = root / "SegmentationObject/2007_000027.png"
    for picture, sentence in (
        (Image.new("L", (9, 9), 1), r"2007_000027.xml: object\[0\]: the mask is 9x9, but the image is 40x30; correct the annotation, or skip"),
        (Image.new("RGB", (WIDTH, HEIGHT)), r"2007_000027.png: pixels of mode RGB; a segmentation holds one number for each pixel"),
    ):
        picture.save(path)
        with pytest.raises(DataError, match=sentence):
            imported(root, geometry="poly")
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2007_000027.png: the segmentation cannot be read"):
        imported(root, geometry="poly")


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]><annotation><object><name>&y;</name></object></annotation>'
LEAK = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "2007_000027.xml: the file declares entities, which annotations have no use for; take the DOCTYPE out"),
        (LEAK, "2007_000027.xml: the file declares entities"),
        ("<annotation>\n<object>\n</annotation>", r"2007_000027.xml:3: not XML \(mismatched tag"),
        ("<kml/>", "2007_000027.xml: the root is <kml>; an annotation is <annotation> with"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "2007_000027.xml: not XML in a known encoding|2007_000027.xml:1: not XML"),
        (xml("2007_000027.jpg", item("cat", "1", "", "9", "6")), r"2007_000027.xml: object\[0\]: ymin '' of the bndbox is not a number; correct"),
        (xml("2007_000027.jpg", item("cat", "9", "1", "2", "6")), r"object\[0\]: \(8, 0\) to \(2, 6\) has a negative width or height"),
        (xml("2007_000027.jpg", item("", "1", "1", "2", "6")), r"object\[0\]: the annotation has no label"),
        (xml("2007_000027.jpg", "<object><name>cat</name></object>"), r"object\[0\]: no bndbox"),
    ],
)
def test_a_hostile_or_broken_file_is_one_sentence_and_nothing_is_written(root: Path, text: str, sentence: str) -> None:
    (root / "Annotations/2007_000027.xml").write_text(text)
    with pytest.raises(DataError, match=sentence):
        imported(root)
    assert not (root.parent / "out").exists()


def test_a_folder_of_xml_files_and_pictures_is_enough(tmp_path: Path, paint: Callable[..., Path], read_valid: Callable[[Path], list[Record]]) -> None:
    paint(tmp_path / "mixed/a.png", WIDTH, HEIGHT)
    (tmp_path / "mixed/a.xml").write_text(xml("a.png", item("cat", "1", "1", "9", "6")))
    imported(tmp_path / "mixed")
    assert read_valid(tmp_path / "out/voc.jsonl")[0].objects[0].points == (0, 0, 9, 6)
    for folder, sentence in (("nowhere", "the folder does not exist"), ("out", "there is no XML file")):
        with pytest.raises(DataError, match=sentence):
            imported(tmp_path / folder)


def test_images_in_folders_are_found_and_annotations_in_folders_are_counted(
    root: Path, paint: Callable[..., Path], read_valid: Callable[[Path], list[Record]]
) -> None:
    paint(root / "JPEGImages/day one/x.jpg", WIDTH, HEIGHT)
    (root / "Annotations/first.XML").write_text(xml("day one/x.jpg", item("dog", "1", "1", "9", "9")))
    (root / "Annotations/deep").mkdir()
    (root / "Annotations/deep/second.xml").write_text(xml("day one/x.jpg", item("dog", "1", "1", "9", "9")))
    assert "1 XML files in folders below, left out" in imported(root).sentence()
    found = {record.metadata["source"]: record.image for record in read_valid(root.parent / "out" / "voc.jsonl")}
    assert found.keys() == {*(f"{stem}.xml" for stem in FILES), "first.XML"}
    assert found["first.XML"] == "images/voc/day one/x.jpg"


def test_a_list_may_name_annotations_with_spaces(root: Path, paint: Callable[..., Path], read_valid: Callable[[Path], list[Record]]) -> None:
    paint(root / "JPEGImages/my photo 1.jpg", WIDTH, HEIGHT)
    (root / "Annotations/my photo 1.xml").write_text(xml("my photo 1.jpg", item("dog", "1", "1", "9", "9")))
    (root / "ImageSets/Main/spaced.txt").write_text("my photo 1\n2007_000027 -1\n")
    imported(root, split="spaced")
    assert [record.metadata["source"] for record in read_valid(root.parent / "out" / "voc.jsonl")] == ["my photo 1.xml", "2007_000027.xml"]
