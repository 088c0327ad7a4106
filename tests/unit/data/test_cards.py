"""Cards: the history of a record file goes along from step to step, and only while the bytes are those that it speaks of."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.data.cards import card_path, write_card
from coordexp.data.jsonl import write_records
from coordexp.types.files import file_sha256
from coordexp.types.records import DetObject, Record


def write(folder: Path, *labels: str) -> Path:
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    objects = tuple(DetObject(label, "bbox_2d", (1, 2, 3, 4)) for label in labels)
    write_records(folder / "train.jsonl", [Record("", "a.png", 32, 32, objects, "pixel")])
    return folder / "train.jsonl"


def test_each_command_adds_a_step_to_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "cat", "cat", "dog | <b>")
    assert main(["data", "filter", "train.jsonl", "--max-objects", "9"]) == 0
    assert main(["data", "coord", "train.max9.jsonl"]) == 0
    text = Path("train.max9.coord.card.md").read_text(encoding="utf-8")
    assert "1. `coordexp data filter train.jsonl --max-objects 9`" in text
    assert "2. `coordexp data coord train.max9.jsonl`  \n   1 records, 3 objects" in text
    assert f"- `train.jsonl`: {Path('train.jsonl').stat().st_size:,} bytes, sha256 `{file_sha256(Path('train.jsonl'))}`" in text
    assert "| cat | 2 |\n| dog \\| &lt;b> | 1 |\n" in text
    assert "| coordinates | token |" in text


def test_a_file_that_was_changed_by_hand_begins_a_new_history(tmp_path: Path) -> None:
    source = write(tmp_path, "cat")
    write_card(source, command="first", sentence="one", sources=[])
    write(tmp_path, "dog")
    write_card(tmp_path / "train.jsonl", command="second", sentence="two", sources=[source])
    text = card_path(source).read_text(encoding="utf-8")
    assert "first" not in text
    assert "1. `second`" in text


def test_an_export_has_a_card_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "cat")
    assert main(["data", "filter", "train.jsonl", "--min-objects", "1"]) == 0
    for line in ("data export coco train.min1.jsonl -o instances.json", "data export yolo train=train.min1.jsonl -o yolo"):
        assert main(line.split()) == 0
    assert main(["data", "export", "yolo", "train=train.min1.jsonl", "-o", "yolo"]) == 0
    assert sorted(path.name for path in Path("yolo").iterdir()) == [".exported", "data.card.md", "data.yaml", "images", "labels"]
    for card, output in (("instances.card.md", "instances.json"), ("yolo/data.card.md", "yolo/data.yaml")):
        text = Path(card).read_text(encoding="utf-8")
        assert f"| sha256 | `{file_sha256(Path(output))}` |" in text
        assert "1. `coordexp data filter train.jsonl --min-objects 1`" in text
        assert "2. `coordexp data export" in text
