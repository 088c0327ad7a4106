"""What a command writes never takes the place of what it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import coordexp
from coordexp.cli.main import main

TINY = Path(coordexp.__file__).parent / "assets/tiny"


@pytest.mark.parametrize(
    "words",
    [
        "data export coco {records} -o {records}",
        "data stats {records} -o {records}",
        "data filter {records} --duplicates 0 --against {other} -o {other}",
        "data merge {records} {other} -o {other}",
        "data import coco {coco} --images {folder} -o {coco}",
        f"doctor data {{records}} --model {TINY} -o {{records}}",
    ],
)
def test_an_output_on_top_of_its_source_is_refused(tmp_path: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    box = {"desc": "cat", "bbox_2d": [1, 1, 5, 5]}
    line = json.dumps({"images": ["a.png"], "objects": [box], "width": 8, "height": 8, "coord_space": "pixel"})
    places = {"records": tmp_path / "records.jsonl", "other": tmp_path / "other.jsonl", "coco": tmp_path / "coco.json"}
    for name in ("records", "other"):
        places[name].write_text(line + "\n")
    image = {"id": 1, "file_name": "a.png", "width": 8, "height": 8}
    places["coco"].write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = words.replace("merge {records} {other}", "merge one={records} two={other}")
    assert main([word.format(folder=tmp_path, **places) for word in words.split()]) == 2
    assert "would replace its source" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
