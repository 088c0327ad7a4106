"""Records of seeded scenes: what a detector might have said about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
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


def _write_coco_files(records: Sequence[Record], folder: Path, *, is_lvis: bool) -> tuple[Path, Path]:
    """Instances, every seventh a crowd region or (LVIS) in images that are annotated for some categories only; results."""
    names = sorted({item["desc"] for record in records for item in record["gt"]})

    def rows(side: str) -> list[Record]:
        items = [(image, item) for image, record in enumerate(records) for item in record[side]]
        boxes = [(item["points"][0], item["points"][1], item["points"][2] - item["points"][0], item["points"][3] - item["points"][1]) for _, item in items]
        return [{"image_id": image, "category_id": names.index(item["desc"]), "bbox": box} for (image, item), box in zip(items, boxes, strict=True)]

    images = [{"id": image, "width": record["width"], "height": record["height"], "file_name": record["image"]} for image, record in enumerate(records)]
    gt = [
        {**row, "id": place + 1, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": int(not is_lvis and place % 7 == 0)}
        for place, row in enumerate(rows("gt"))
    ]
    categories = [{"id": number, "name": name, "frequency": "rcf"[number % 3]} for number, name in enumerate(names)]
    federation = {"neg_category_ids": [0, 2], "not_exhaustive_category_ids": [1]} if is_lvis else {}
    scores = [item["score"] for record in records for item in record["pred"]]
    truth, results = folder / "truth.json", folder / "results.json"
    truth.write_text(json.dumps({"images": [image | federation for image in images], "annotations": gt, "categories": categories}))
    results.write_text(json.dumps([{**row, "score": score} for row, score in zip(rows("pred"), scores, strict=True)]))
    return truth, results


@pytest.fixture
def write_coco_files(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """(instances, results) of records, with crowd regions or as LVIS."""
    return partial(_write_coco_files, folder=tmp_path)


@pytest.fixture(scope="session")
def make_scenes() -> Callable[..., list[Record]]:
    return _scenes


@pytest.fixture
def record() -> Callable[..., Record]:
    """One record of 100 x 80 pixels."""

    def make(gt: list[Any] | None = None, pred: list[Any] | None = None, **more: Any) -> Record:
        return {"image": "a.png", "width": 100, "height": 80, "coord_mode": "pixel", "gt": gt or [], "pred": pred or [], **more}

    return make
