"""Import of miniature YOLO folders, compared with the loader of the library supervision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv

from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.yolo import import_yolo, label_path
from coordexp.types.errors import DataError
from coordexp.types.records import Record

NAMES = "names:\n  0: chat écaillé\n  1: '猫'\n  2: 7up\n"
LABELS = {
    "a": "0 0.5 0.5 0.25 0.5\r\n\r\n1 0.95 0.9 0.2 0.4\r\n",
    "turned": "2 0.25 0.75 0.1 0.2\n",
    "segments": "\ufeff1 0.1 0.1 0.6 0.1 0.6 0.8\n",
    "flat": "0 0.5 0.5 0 0.5\n",
}
SIZES = {"a": (40, 30), "turned": (60, 20), "segments": (50, 50), "flat": (32, 32), "background": (16, 16)}


@pytest.fixture
def source(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    """A data set of the layout `images/train`, with Windows line ends, a byte order mark, EXIF, a grey picture and one without labels."""
    for stem, (width, height) in SIZES.items():
        paint(tmp_path / f"images/train/{stem}.jpg", width, height, mode="L" if stem == "flat" else "RGB", turned=stem == "turned")
    (tmp_path / "labels/train").mkdir(parents=True)
    for stem, text in LABELS.items():
        (tmp_path / f"labels/train/{stem}.txt").write_bytes(text.encode())
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images/train\nval:\n{NAMES}", encoding="utf-8")
    return tmp_path / "data.yaml"


def imported(source: Path, **options: Any) -> Any:
    return import_yolo(source, split="train", output=source.parent / "out" / "train.jsonl", options=ImportOptions(**options))


def test_every_box_equals_what_supervision_reads_up_to_clamping(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    summary = imported(source)
    root = source.parent
    (root / "labels/train/segments.txt").write_text(LABELS["segments"].removeprefix("\ufeff"))  # which supervision does not know
    theirs = sv.DetectionDataset.from_yolo(str(root / "images/train"), str(root / "labels/train"), str(source))
    records = {Path(record.image).stem: record for record in read_valid(root / "out" / "train.jsonl")}
    assert set(records) == set(SIZES)
    for path in theirs.image_paths:
        record, detections = records[Path(path).stem], theirs.annotations[path]
        if Path(path).stem == "turned":  # supervision reads the size without EXIF: it is checked below
            continue
        assert [item.desc for item in record.objects] == [theirs.classes[number] for number in detections.class_id]
        expected = np.clip(detections.xyxy, 0, [record.width - 1, record.height - 1] * 2)
        found = np.array([item.points for item in record.objects]).reshape(-1, 4)
        assert found == pytest.approx(expected, abs=1e-4)  # supervision works in float32
    (turned,) = records["turned"].objects
    assert (records["turned"].width, records["turned"].height) == (20, 60)
    assert turned.points == pytest.approx((4, 39, 6, 51))
    assert (summary.num_images, summary.num_empty_images, summary.num_objects) == (5, 1, 5)
    assert (summary.num_clamped, summary.num_zero_area, summary.notes["images without a label file"]) == (1, 1, 1)


def test_polygons_are_taken_from_segments_and_a_box_line_is_then_unusable(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    with pytest.raises(DataError, match=r"labels/train/a.txt:1: polygons are asked for, but the annotation has no segmentation; correct"):
        imported(source, geometry="poly")
    summary = imported(source, geometry="poly", skip_invalid=True)
    records = {Path(record.image).stem: record for record in read_valid(source.parent / "out" / "train.jsonl")}
    assert records["segments"].objects[0].points == pytest.approx((5, 5, 30, 5, 30, 40))
    assert summary.skipped == {"no_segmentation": 4}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("3 0.5 0.5 0.1 0.1", "a.txt:2: class 3 is not among the 3 names of data.yaml"),
        ("0.5 0.5 0.5 0.1 0.1", "a.txt:2: class 0.5 is not among"),
        ("0 0.5 0.5 0.1", r"a.txt:2: 3 values after the class, neither a box \(4\) nor"),
        ("0 0.5 0.5 0.1 0.1 0.9", "a.txt:2: 5 values after the class"),
        ("0 a b c d", "a.txt:2: '0 a b c d' is not a line of numbers"),
        ("0 0.5 0.5 nan 0.1", "a.txt:2: a coordinate is not a finite number"),
        ("0 1.5 0.5 0.1 0.1", r"a.txt:2: \(58, 13.5\) to \(62, 16.5\) lies outside the image of 40x30"),
        ("0 0.5 0.5 -0.1 0.1", r"a.txt:2: .* has a negative width or height"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_written(source: Path, line: str, sentence: str) -> None:
    (source.parent / "labels/train/a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=sentence):
        imported(source)
    assert not (source.parent / "out").exists()
    assert sum(imported(source, skip_invalid=True).skipped.values()) == 1


def test_keypoints_behind_a_box_are_left_out(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    source.write_text(source.read_text(encoding="utf-8") + "kpt_shape: [2, 3]\n", encoding="utf-8")
    (source.parent / "labels/train/a.txt").write_text("0 0.5 0.5 0.25 0.5 0.4 0.4 2 0.6 0.6 1\n")
    summary = imported(source)
    record = next(record for record in read_valid(source.parent / "out/train.jsonl") if "a.jpg" in record.image)
    assert record.objects[0].points == pytest.approx((15, 7.5, 25, 22.5))
    assert summary.notes["objects with keypoints, of which the box was taken"] == 1


def test_roboflow_folders_and_list_files_are_found(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    root = source.parent
    for kind in ("images", "labels"):
        (root / "train").mkdir(exist_ok=True)
        (root / kind / "train").rename(root / "train" / kind)
    source.write_text("train: ../train/images\nval: ../valid/images\nnc: 3\nnames: ['chat écaillé', '猫', 7up]\n", encoding="utf-8")
    imported(source)
    records = read_valid(root / "out" / "train.jsonl")
    assert records[0].image == "images/train/train/images/a.jpg"
    (root / "list.txt").write_text("./train/images/turned.jpg\r\ntrain\\images\\a.jpg\r\n")
    source.write_text("path: /data/of/another/machine\ntrain: [list.txt]\nnames: [a, b, c]\n")
    imported(source)
    assert [Path(record.image).stem for record in read_valid(root / "out" / "train.jsonl")] == ["turned", "a"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: images/train\n", "data.yaml: names: names is neither a list of classes nor a mapping"),
        ("val: images/train\nnames: [a]\n", "there is no split 'train'; choose one of: val"),
        ("train: nowhere\nnames: [a]\n", "nowhere is neither a folder nor a file; correct the path; it is looked for in"),
        ("- a\n", "data.yaml: not a mapping"),
        ("a: [\n", "data.yaml: not YAML in UTF-8"),
        ("train: images/train\nnames: [a]\nkpt_shape: 3\n", r"kpt_shape: 3 is not \[keypoints, values of each\]"),
    ],
)
def test_a_broken_data_yaml_is_one_sentence(source: Path, text: str, sentence: str) -> None:
    source.write_text(text)
    with pytest.raises(DataError, match=sentence):
        imported(source)


def test_labels_lie_beside_the_last_folder_of_images() -> None:
    assert label_path(Path("images/x/images/train/a.b.png")) == Path("images/x/labels/train/a.b.txt")
    assert label_path(Path("pictures/a.png")) == Path("pictures/a.txt")


def test_names_are_taken_as_they_are_spelled(source: Path, read_valid: Callable[[Path], list[Record]]) -> None:
    source.write_text("train: images/train\nnames: [no, null, 1.10]\n")
    summary = imported(source)
    assert set(summary.labels) == {"no", "null", "1.10"}
    assert {found.desc for record in read_valid(source.parent / "out" / "train.jsonl") for found in record.objects} == {"no", "null", "1.10"}


def test_label_files_that_no_image_belongs_to_are_counted(source: Path, paint: Callable[..., Path]) -> None:
    labels = source.parent / "labels/train"
    (labels / "phone.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (labels / "deep").mkdir()
    (labels / "deep/lost.txt").write_text("")
    (labels / "classes.txt").write_text("cat\n")
    assert "2 label files without an image, left out" in imported(source).sentence()
    paint(source.parent / "images/train/phone.png", 30, 30)
    assert "1 label files without an image, left out" in imported(source).sentence()


def test_a_line_of_a_class_alone_is_no_object_with_keypoints(source: Path) -> None:
    (source.parent / "labels/train/flat.txt").write_text("0\n")
    summary = imported(source, skip_invalid=True)
    assert summary.skipped == {"bad_line": 1}
    assert "keypoints" not in summary.sentence()
