"""Records of seeded scenes: what a detector might have said about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Record = dict[str, Any]
NAMES = ("zero", "one", "two", "three", "four")


def _box(rng: np.random.Generator, width: int, height: int) -> list[int]:
    side = rng.integers(8, 120, 2)
    x, y = int(rng.integers(0, width - side[0])), int(rng.integers(0, height - side[1]))
    return [x, y, x + int(side[0]), y + int(side[1])]


def _shaken(rng: np.random.Generator, box: list[int], width: int, height: int) -> list[int]:
    x1, y1, x2, y2 = (int(value) for value in np.clip(np.array(box) + rng.integers(-5, 6, 4), 0, [width - 1, height - 1] * 2))
    return [x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)]


def _scenes(num_images: int, *, seed: int, polygons: bool = False, crowd: int = 0, decimals: int = 9) -> list[Record]:
    """Boxes that are near the truth, missed, wrongly named, doubled or invented; every fifth image is empty. Few decimals make tied scores."""
    records: list[Record] = []
    for index in range(num_images):
        rng = np.random.default_rng([seed, index])
        width, height = 240, 180
        gt: list[Record] = []
        pred: list[Record] = []
        for _ in range(0 if index % 5 == 4 else int(rng.integers(1, 7))):
            box, name = _box(rng, width, height), NAMES[int(rng.integers(len(NAMES)))]
            gt.append(_object(rng, box, name, polygons=polygons))
            if rng.random() < 0.85:
                said = name if rng.random() < 0.9 else NAMES[int(rng.integers(len(NAMES)))]
                pred.append(_object(rng, _shaken(rng, box, width, height), said, polygons=polygons, scored=True))
        for _ in range(int(rng.integers(0, 2)) + crowd):
            pred.append(_object(rng, _box(rng, width, height), NAMES[int(rng.integers(len(NAMES)))], polygons=polygons, scored=True))
        for item in pred:
            item["score"] = round(item["score"], decimals)
        records.append({"image": f"{index}.png", "width": width, "height": height, "coord_mode": "pixel", "gt": gt, "pred": pred})
    return records


def _object(rng: np.random.Generator, box: list[int], name: str, *, polygons: bool, scored: bool = False) -> Record:
    x1, y1, x2, y2 = box
    kind, points = ("poly", [x1, y1, x2, y1, x1, y2]) if polygons and rng.random() < 0.5 else ("bbox_2d", box)
    item: Record = {"type": kind, "points": points, "desc": name}
    return item | {"score": float(rng.random())} if scored else item


@pytest.fixture(scope="session")
def make_scenes() -> Callable[..., list[Record]]:
    return _scenes


@pytest.fixture
def record() -> Callable[..., Record]:
    """One record of 100 x 80 pixels."""

    def make(gt: list[Any] | None = None, pred: list[Any] | None = None, **more: Any) -> Record:
        return {"image": "a.png", "width": 100, "height": 80, "coord_mode": "pixel", "gt": gt or [], "pred": pred or [], **more}

    return make
