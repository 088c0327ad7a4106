"""Data files of drawn scenes, for tests that run inference as a user does."""

from __future__ import annotations

from pathlib import Path

from coordexp.data.synthetic import SceneSettings, write_scene_records


def write_scenes(folder: Path, *, count: int) -> Path:
    """Images of 96×96 pixels, which the shipped checkpoint knows, and `val.jsonl` beside them."""
    settings = SceneSettings(name="tests", kind="shapes", seed=3, num_scenes=count, width=96, height=96, min_side=18, max_side=40, max_objects=3)
    return write_scene_records(settings, folder / "val.jsonl", side=96)
