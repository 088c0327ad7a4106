"""Drawn scenes at the size that a model sees, and as a record file: what tests, benchmarks and pretraining take without the way through COCO files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from coordexp.data.convert import to_space
from coordexp.data.jsonl import write_records
from coordexp.data.synthetic.coco import render_scene
from coordexp.data.synthetic.scenes import Scene, SceneSettings
from coordexp.geometry.bins import pixels_to_bins
from coordexp.types.records import CoordSpace, DetObject, Record


@dataclass(frozen=True, slots=True)
class Sample:
    """One drawn scene at the size that the model sees."""

    image: npt.NDArray[np.uint8]
    """[side, side, 3]"""
    objects: tuple[DetObject, ...]
    """In bins, sorted by (y1, x1)."""


def scale_scene(scene: Scene, side: int) -> Sample:
    """The scene at side x side pixels with objects in bins."""
    height, width = scene.image.shape[:2]
    image = np.asarray(Image.fromarray(scene.image).resize((side, side), Image.Resampling.BICUBIC))
    # quantized at the size of the source, as the product does: a rescale keeps the normalized coordinate x / (width - 1), not x / width
    objects = [DetObject(item.desc, item.kind, pixels_to_bins(item.points, kind=item.kind, width=width, height=height)) for item in scene.objects]
    return Sample(image, tuple(sorted(objects, key=lambda item: (item.points[1], item.points[0]))))


def write_scene_records(settings: SceneSettings, path: Path, *, side: int, space: CoordSpace = "token") -> Path:
    """Write `0.png`, `1.png`, … of side x side pixels and the record file `path` beside them. Returns the path."""
    records: list[Record] = []
    for index in range(settings.num_scenes):
        sample = scale_scene(render_scene(settings, index), side)
        Image.fromarray(sample.image).save(path.with_name(f"{index}.png"))
        records.append(to_space(Record("", f"{index}.png", side, side, sample.objects, "norm1000"), space))
    write_records(path, records)
    return path
