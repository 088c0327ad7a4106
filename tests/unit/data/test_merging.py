"""Merged record files: every path leads to the picture that it led to before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.data.convert import to_tokens
from coordexp.data.jsonl import read_records, write_records
from coordexp.data.merging import merge_files
from coordexp.data.validate import validate_file
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record


def write(folder: Path, *names: str, shade: int = 0) -> Path:
    records = []
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), (shade, number, 0)).save(folder / name)
        records.append(Record("", name, 20, 10, (DetObject("cat", "bbox_2d", (1, 2, 3, 4)),), "pixel", metadata={"row": number}))
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def test_images_of_equal_names_stay_apart_and_paths_are_relative_to_the_new_folder(tmp_path: Path) -> None:
    sources = {"coco": write(tmp_path / "coco", "images/a.png", "b.png", shade=10), "lvis": write(tmp_path / "lvis", "images/a.png", shade=20)}
    summary = merge_files(sources, tmp_path / "both" / "train.jsonl")
    assert validate_file(tmp_path / "both" / "train.jsonl", check_images=True).is_valid
    merged = read_records(tmp_path / "both" / "train.jsonl")
    assert [record.image for record in merged] == ["images/train/coco/images/a.png", "images/train/coco/b.png", "images/train/lvis/images/a.png"]
    assert [record.metadata for record in merged] == [{"dataset": "coco", "row": 0}, {"dataset": "coco", "row": 1}, {"dataset": "lvis", "row": 0}]
    before = [(source.parent, record) for source in sources.values() for record in read_records(source)]
    for record, (folder, old) in zip(merged, before, strict=True):
        assert (tmp_path / "both" / record.image).samefile(folder / old.image)
        assert replace(record, image="", id="", metadata={}) == replace(old, image="", id="", metadata={})
    assert summary.sentence() == "3 records (2 coco + 1 lvis), 3 objects, 3 images linked"


def test_images_below_the_new_file_stay_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "coco", "images/a.png")
    write(tmp_path / "lvis", "images/a.png")
    line = ["data", "merge", str(tmp_path / "coco/train.jsonl"), f"second={tmp_path}/lvis/train.jsonl", "--output", str(tmp_path / "all.jsonl")]
    assert main(line) == 0
    assert [record.image for record in read_records(tmp_path / "all.jsonl")] == ["coco/images/a.png", "lvis/images/a.png"]
    assert "2 records (1 coco + 1 second), 2 objects\n" in capsys.readouterr().out


def test_what_cannot_be_merged_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "a.png"), write(tmp_path / "b", "b.png")
    bins = tmp_path / "b" / "train.coord.jsonl"
    write_records(bins, map(to_tokens, read_records(second)))
    with pytest.raises(DataError, match=r"train.coord.jsonl:1: records in pixels and records in bins would be in one file; convert one"):
        merge_files({"a": first, "b": bins}, tmp_path / "out" / "all.jsonl")
    (tmp_path / "b" / "b.png").unlink()
    with pytest.raises(DataError, match=r"b/train.jsonl:1: the image .*b.png does not exist"):
        merge_files({"a": first, "b": second}, tmp_path / "out" / "all.jsonl")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="the output would replace its source"):
        merge_files({"a": first}, first)
    with pytest.raises(DataError, match=r"'\.\./x' cannot be the name of a folder"):
        merge_files({"../x": first}, tmp_path / "out" / "all.jsonl")
    assert main(["data", "merge", str(first), str(first), "--output", str(tmp_path / "out" / "all.jsonl")]) == 2
