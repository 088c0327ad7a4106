"""YAML from strangers, at every place where a command reads it: refused in one sentence, in no time and with no memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.data.importers.options import read_label_map
from coordexp.data.importers.yolo import open_yolo
from coordexp.types.errors import UserError
from coordexp.types.yaml_limits import MAX_BYTES

READERS: dict[str, Callable[[Path], Any]] = {
    "configuration": lambda path: load_config(path, TrainConfig),
    "extends": lambda path: load_config(_extending(path), TrainConfig),
    "data.yaml": lambda path: open_yolo(path, split="train"),
    "label map": read_label_map,
}
LEVELS = range(1, 12)
LISTS = "a0: &a0 [x, x]\n" + "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in LEVELS)
MERGES = "a0: &a0 {key: 1}\n" + "".join(f"a{level}: &a{level}\n  <<: [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in LEVELS)
HOSTILE = {
    "lists that stand for 9**11 values": (LISTS + "names: *a11\ntrain: .\n", "stand for more than 250000 values"),
    "mappings merged 9**11 times": (MERGES, "stand for more than 250000 values"),
    "three thousand brackets": ("names: " + "[" * 3_000, ""),
    "an object of Python": ("names: !!python/object/apply:os.system ['touch hacked']\n", "python/object/apply:os.system"),
    "a module of Python": ("names: !!python/module:antigravity ''\n", "python/module:antigravity"),
    "an anchor that contains itself": ("names: &a [*a]\ntrain: &b {inner: *b}\n", ""),
    "more than a file of settings holds": ("# " + "x" * MAX_BYTES + "\nnames: [a]\n", "larger than 2 MiB"),
}


def _extending(path: Path) -> Path:
    child = path.with_name("child.yaml")
    child.write_text(f"extends: {path.name}\n")
    return child


@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
@pytest.mark.parametrize("reader", READERS, ids=str)
def test_hostile_yaml_is_one_sentence(reader: str, hostile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, expected = HOSTILE[hostile]
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        READERS[reader](path)
    assert expected in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert not (tmp_path / "hacked").exists()


def test_an_alias_that_is_used_as_aliases_are_is_read(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("Car: &vehicle vehicle\nTruck: *vehicle\n")
    assert read_label_map(tmp_path / "labels.yaml") == {"Car": "vehicle", "Truck": "vehicle"}
