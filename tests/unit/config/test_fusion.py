from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.config.fusion import FusionConfig
from coordexp.config.loading import load_config
from coordexp.types.errors import ConfigError

BASE = """\
datasets:
  - name: lvis
    train_jsonl: lvis.jsonl
    ratio: 0.5
  - name: vg
    train_jsonl: vg.jsonl
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_files_merge_data_sets_by_name(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    top = "extends: base.yaml\ndatasets:\n  - {name: objects365, train_jsonl: o.jsonl}\n  - name: lvis\n    ratio: 2\n    prompt_labels: gt\n"
    loaded = load_config(write(tmp_path, "top.yaml", top), FusionConfig)
    assert [(item.name, item.ratio, item.prompt_labels) for item in loaded.config.datasets] == [("lvis", 2, "gt"), ("vg", 1, None), ("objects365", 1, None)]
    assert str(loaded.config.datasets[0].train_jsonl) == "lvis.jsonl"
    assert [item.path.name for item in loaded.files] == ["top.yaml", "base.yaml"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("datasets:\n  - {train_jsonl: a}\n", r"a\.yaml:2: datasets\[0\]: an entry without 'name'", id="nameless"),
        pytest.param(
            "datasets:\n  - {name: a, train_jsonl: a}\n  - {name: a, train_jsonl: b}\n", r"a\.yaml:3: datasets\[1\]: a second entry with name 'a'", id="twice"
        ),
        pytest.param(
            "datasets:\n  - name: a\n    train_jsonl: a\n    ration: 2\n", r"a\.yaml:4: datasets\[0\]\.ration: unknown key; did you mean .*ratio\?", id="typo"
        ),
        pytest.param("datasets:\n  - name: a\n", r"datasets\[0\]\.train_jsonl: is required", id="file"),
        pytest.param("datasets:\n  - {name: a, train_jsonl: a, ratio: 0}\n", r"ratio: must be greater than 0", id="ratio"),
        pytest.param("datasets: []\n", "datasets: expected a longer list", id="none"),
        pytest.param("datasets: a\n", "datasets: expected a list", id="word"),
        pytest.param("{}\n", "datasets: is required", id="absent"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, "a.yaml", text), FusionConfig)
