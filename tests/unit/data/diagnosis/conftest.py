"""Sound data sets for the doctor: drawn shapes, the demo's digits, crowds, five records, polygons, a long tail of names and sizes, noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from coordexp.data.convert import to_space
from coordexp.data.jsonl import write_records
from coordexp.data.synthetic import SceneSettings, load_split, render_scene
from coordexp.types.records import CoordSpace, DetObject, Record

CleanSet = Callable[[str], tuple[Path, Sequence[Record]]]

SETTINGS = {
    "shapes": SceneSettings(name="wide", kind="shapes", seed=3, num_scenes=24, width=160, height=96, min_side=12, max_side=40),
    "digits": replace(load_split("digits-hard-val").settings, num_scenes=10),
    "crowds": SceneSettings(name="crowd", kind="shapes", seed=3, num_scenes=8, width=256, height=192, min_objects=15, max_objects=40, min_side=10, max_side=28),
    "five": SceneSettings(name="five", kind="shapes", seed=4, num_scenes=5, width=96, height=96, min_side=12, max_side=40),
    "polygons": SceneSettings(name="poly", kind="shapes", seed=5, num_scenes=12, width=96, height=96, min_side=12, max_side=40, with_polygons=True),
}
NAMES = (*SETTINGS, "long tail", "noise")


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> CleanSet:
    """(folder with the images, records in pixels) by name; made once."""
    made: dict[str, tuple[Path, Sequence[Record]]] = {}

    def make(name: str) -> tuple[Path, Sequence[Record]]:
        if name not in made:
            folder = tmp_path_factory.mktemp("clean")
            made[name] = folder, _drawn(folder, SETTINGS[name]) if name in SETTINGS else _long_tail(folder) if name == "long tail" else _noise(folder)
        return made[name]

    return make


@pytest.fixture
def write_clean(clean_set: CleanSet, tmp_path: Path) -> Callable[[str, CoordSpace], Path]:
    """A sound data set in a space of its own, with links to its images."""

    def write(name: str, space: CoordSpace) -> Path:
        folder, records = clean_set(name)
        for image in folder.iterdir():
            (tmp_path / image.name).hardlink_to(image)
        write_records(tmp_path / "train.jsonl", [to_space(record, space) for record in records])
        return tmp_path / "train.jsonl"

    return write


def _drawn(folder: Path, settings: SceneSettings) -> list[Record]:
    records: list[Record] = []
    for index in range(settings.num_scenes):
        scene = render_scene(settings, index)
        Image.fromarray(scene.image).save(folder / f"{index}.png", compress_level=1)
        rings = [None if ring is None else DetObject(item.desc, "poly", ring) for item, ring in zip(scene.objects, scene.rings, strict=True)]
        objects = tuple(ring or item for item, ring in zip(scene.objects, rings, strict=True)) if index % 2 else scene.objects
        records.append(Record("", f"{index}.png", settings.width, settings.height, objects, "pixel"))
    return records


def _long_tail(folder: Path) -> list[Record]:
    """Sizes over three orders of magnitude, most names once, most images with few objects and some with many."""
    rng, draw_size = np.random.default_rng(0), random.Random(5)
    records: list[Record] = []
    for number in range(50):
        width, height = draw_size.choice([(160, 128), (128, 160), (256, 144), (128, 128), (640, 480)])
        image = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(0, 256, 3)))
        objects: list[DetObject] = []
        for _ in range(min(25, int(rng.pareto(1.0)) + int(rng.integers(0, 3)))):
            side, aspect = min(0.9, float(rng.lognormal(-2.5, 1.0))), float(np.exp(rng.normal(0, 0.6)))
            w, h = min(0.95 * width, max(2.0, side * width * aspect**0.5)), min(0.95 * height, max(2.0, side * height / aspect**0.5))
            x, y = float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h))
            ImageDraw.Draw(image).rectangle((x, y, x + w - 1, y + h - 1), fill=tuple(int(value) for value in rng.integers(0, 256, 3)))
            objects.append(DetObject(f"class {int(rng.zipf(1.5)) % 1200}", "bbox_2d", (x, y, x + w, y + h)))
        image.save(folder / f"{number}.png", compress_level=1)
        records.append(Record("", f"{number}.png", width, height, tuple(objects), "pixel"))
    return records


def _noise(folder: Path) -> list[Record]:
    """Pictures in which nothing can be seen, so that they can say nothing about boxes."""
    rng = np.random.default_rng(1)
    records: list[Record] = []
    for number in range(25):
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"{number}.png", compress_level=1)
        corners = rng.uniform(0, (100, 70), (4, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(4, 26, (4, 2))], axis=1)
        records.append(Record("", f"{number}.png", 128, 96, tuple(DetObject("thing", "bbox_2d", tuple(box)) for box in boxes.tolist()), "pixel"))
    return records
