"""COCO files of two splits become record files in one command's worth of code."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data.jsonl import read_records
from coordexp.data.synthetic import SceneSettings, write_coco_dataset
from coordexp.geometry.bins import pixels_to_bins
from coordexp.recipes.prepare import run_prepare
from coordexp.types.errors import ConfigError


def _overrides(folder: Path, *splits: str) -> list[str]:
    values = [f"output={folder / 'out'}", "preset=rescale_16_36"]
    for split in splits:
        write_coco_dataset(SceneSettings(name=split, kind="shapes", seed=1, num_scenes=3), folder / split)
        values += [f"splits.{split}.instances={folder / split / f'instances_{split}.json'}", f"splits.{split}.images={folder / split / 'images'}"]
    return values


def test_both_splits_arrive_at_the_size_of_the_preset_with_the_bins_of_their_source(tmp_path: Path) -> None:
    train, val = run_prepare(load_config(None, PrepareConfig, _overrides(tmp_path, "train", "val")))
    assert (train.path, val.path) == tuple(tmp_path / "out" / "rescale_16_36" / f"{name}.coord.jsonl" for name in ("train", "val"))
    source = read_records(tmp_path / "out" / "source" / "train.jsonl")
    for before, after in zip(source, read_records(train.path), strict=True):
        assert (after.width, after.height, after.coord_space) == (96, 96, "token")
        assert [item.points for item in after.objects] == [
            pixels_to_bins(item.points, kind="bbox_2d", width=before.width, height=before.height) for item in before.objects
        ]
    assert "3 images" in train.sentence()


def test_a_file_without_splits_is_refused() -> None:
    with pytest.raises(ConfigError, match="splits: names no split; give"):
        load_config(None, PrepareConfig, ["output=x", "preset=rescale_16_36", "splits={}"])
