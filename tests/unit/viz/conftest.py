"""A run folder with real images, as inference leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

RunMaker = Callable[..., Path]


def _box(desc: str, x: int, y: int, size: int = 20, **more: Any) -> dict[str, Any]:
    return {"type": "bbox_2d", "points": [x, y, x + size, y + size], "desc": desc, **more}


RECORDS = [
    {"gt": [_box("cat", 5, 5), _box("dog", 40, 20)], "pred": [_box("cat", 6, 5, score=0.9), _box("dog", 41, 20, score=0.8)]},
    {"gt": [_box("cat", 5, 5), _box("cat", 60, 30)], "pred": [_box("dog", 5, 5, score=0.7)]},
    {"gt": [], "pred": [_box("cat", 30, 30, score=0.2)]},
    {"gt": [_box("dog", 10, 10)], "pred": [_box("dog", 10, 12, score=0.6)]},
]
"""Errors by image: 0, 3, 1, 0."""


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Writes images and predictions; `records` replaces the default ones, `drop_last` forgets predictions."""

    def make(name: str = "run", *, records: list[dict[str, Any]] | None = None, drop_last: bool = False, label: str | None = None) -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        lines = []
        for index, record in enumerate(records or RECORDS):
            pixels = np.random.default_rng(index).integers(0, 255, (72, 96, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
            whole = {
                "image": f"images/{index}.png",
                "width": 96,
                "height": 72,
                "mode": "coord",
                "coord_mode": "pixel",
                "raw_output": "",
                "errors": [],
                **record,
            }
            if drop_last:
                whole["pred"] = whole["pred"][:-1]
            lines.append(json.dumps(whole if label is None else json.loads(json.dumps(whole).replace('"cat"', json.dumps(label)))))
        (folder / "gt_vs_pred.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return make
