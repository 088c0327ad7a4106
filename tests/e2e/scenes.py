"""Data files of drawn scenes, for tests that run inference as a user does."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from coordexp.data.convert import to_tokens
from coordexp.data.jsonl import record_to_json
from coordexp.data.synthetic import SceneSettings, render_scene
from coordexp.types.records import Record


def write_scenes(folder: Path, *, count: int) -> Path:
    """Images of 96×96 pixels, which the shipped checkpoint knows, and `val.jsonl` beside them."""
    settings = SceneSettings(name="tests", kind="shapes", seed=3, num_scenes=count, width=96, height=96, min_side=18, max_side=40, max_objects=3)
    lines = []
    for index in range(count):
        scene = render_scene(settings, index)
        Image.fromarray(scene.image).save(folder / f"{index}.png")
        lines.append(json.dumps(record_to_json(to_tokens(Record("", f"{index}.png", 96, 96, scene.objects, "pixel")))))
    (folder / "val.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "val.jsonl"
