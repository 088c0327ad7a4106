"""Records and COCO files of seeded scenes: what a detector might have said about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

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


COCO_CATEGORIES = (3, 17, 5, 90)
COCO_WIDTH, COCO_HEIGHT = 160, 120


def _coco_mask(rng: np.random.Generator, box: list[float], *, kind: int) -> Any:
    """A segmentation inside the box: a polygon of two parts, compressed run lengths, or uncompressed ones."""
    x, y, w, h = box
    if kind == 0:
        return [[x, y, x + w, y, x + w, y + h * 0.6, x, y + h * 0.6], [x + w * 0.3, y + h * 0.7, x + w * 0.8, y + h * 0.7, x + w * 0.5, y + h]]
    pixels = np.zeros((COCO_HEIGHT, COCO_WIDTH), dtype=np.uint8, order="F")
    pixels[int(y) : int(y + h) + 1, int(x) : int(x + w) + 1] = 1
    pixels[int(y) : int(y + h / 2), int(x) : int(x + w / 2)] = rng.random() < 0.5
    if kind == 1:
        mask: Any = coco_mask.encode(pixels)
        return {"size": [COCO_HEIGHT, COCO_WIDTH], "counts": mask["counts"].decode()}
    flat = pixels.flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    return {"size": [COCO_HEIGHT, COCO_WIDTH], "counts": np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()}


def _coco_files(
    seed: int,
    *,
    num_images: int = 12,
    crowd: float = 0.1,
    ties: bool = False,
    most: int = 3,
    gt_masks: bool = False,
    pred_masks: bool = False,
    lvis: bool = False,
) -> tuple[Record, list[Record]]:
    """(instances, results): ids out of order, boxes with fractions, areas that are not those of the boxes, `ignore` marks, crowd regions.

    A ground truth gets up to `most` - 1 predictions.
    """
    rng = np.random.default_rng(seed)
    images = [{"id": int(number), "file_name": f"{number}.jpg", "width": COCO_WIDTH, "height": COCO_HEIGHT} for number in rng.permutation(1000)[:num_images]]
    annotations: list[Record] = []
    results: list[Record] = []
    for image in images:
        for _ in range(int(rng.integers(0, 9))):
            w, h = rng.uniform(4, 90, 2)
            box = [round(float(value), 2) for value in (rng.uniform(0, COCO_WIDTH - w), rng.uniform(0, COCO_HEIGHT - h), w, h)]
            category, iscrowd = int(rng.choice(COCO_CATEGORIES)), int(rng.random() < crowd)
            annotation = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category, "bbox": box, "iscrowd": iscrowd}
            annotation |= {"area": box[2] * box[3] * float(rng.uniform(0.4, 1)), "ignore": int(rng.random() < 0.1)}
            annotations.append(annotation | ({"segmentation": _coco_mask(rng, box, kind=2 if iscrowd else int(rng.integers(0, 2)))} if gt_masks else {}))
            for _ in range(int(rng.integers(0, most))):
                moved = [round(float(value), 2) for value in np.array(box) + rng.normal(0, 4, 4)]
                moved[2:] = [max(moved[2], 1.0), max(moved[3], 1.0)]
                score = float(rng.random())
                said = category if rng.random() < 0.85 else int(rng.choice(COCO_CATEGORIES))
                result = {"image_id": image["id"], "category_id": said, "bbox": moved, "score": round(score, 1) if ties else score}
                inside = [min(max(value, 0.0), 60.0) for value in moved]
                results.append(result | ({"segmentation": _coco_mask(rng, inside, kind=1)} if pred_masks else {}))
    categories = [{"id": category, "name": f"name {category}"} for category in COCO_CATEGORIES]
    truth = {"images": images, "categories": categories, "annotations": [annotations[place] for place in rng.permutation(len(annotations))]}
    if lvis:
        _add_lvis_metadata(rng, truth)
    return truth, [results[place] for place in rng.permutation(len(results))]


def _add_lvis_metadata(rng: np.random.Generator, truth: Record) -> None:
    for image in truth["images"]:
        present = {item["category_id"] for item in truth["annotations"] if item["image_id"] == image["id"]}
        image["neg_category_ids"] = [category for category in COCO_CATEGORIES if category not in present and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [category for category in sorted(present) if rng.random() < 0.3]
    for category, frequency in zip(truth["categories"], "rcff", strict=True):
        category["frequency"] = frequency


@pytest.fixture(scope="session")
def make_coco() -> Callable[..., tuple[Record, list[Record]]]:
    return _coco_files


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[[Any, Any], tuple[Path, Path]]:
    """Writes (instances, results) and returns their paths."""

    def write(truth: Any, results: Any) -> tuple[Path, Path]:
        paths = tmp_path / "instances.json", tmp_path / "results.json"
        for path, content in zip(paths, (truth, results), strict=True):
            path.write_text(json.dumps(content), encoding="utf-8")
        return paths

    return write


@pytest.fixture(scope="session")
def make_scenes() -> Callable[..., list[Record]]:
    return _scenes


@pytest.fixture
def record() -> Callable[..., Record]:
    """One record of 100 x 80 pixels."""

    def make(gt: list[Any] | None = None, pred: list[Any] | None = None, **more: Any) -> Record:
        return {"image": "a.png", "width": 100, "height": 80, "coord_mode": "pixel", "gt": gt or [], "pred": pred or [], **more}

    return make
