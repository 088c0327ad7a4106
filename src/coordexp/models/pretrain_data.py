"""Scenes for pretraining, drawn once and kept: pictures at the model's size, objects in bins. A batch is a function of (seed, step).

The way of a picture is the product's own: drawn at full size, scaled with Pillow's bicubic filter, split into patches as the processor does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordexp.data.synthetic import Sample, SceneSettings, render_scene, scale_scene
from coordexp.models.tiny import IMAGE_MEAN, IMAGE_STD, MERGE_SIZE, PATCH_SIZE
from coordexp.types.files import write_text
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import DetObject

_CHUNK = 250


@dataclass(frozen=True, slots=True)
class SceneCache:
    """All scenes of one kind, grouped by their number of objects."""

    images: npt.NDArray[np.uint8]
    """[N, side, side, 3], mapped from a file."""
    objects: Sequence[tuple[DetObject, ...]]
    by_count: dict[int, npt.NDArray[np.int64]]

    def draw(self, rng: np.random.Generator, size: int) -> list[Sample]:
        """Samples with equally many objects, so that no batch needs padding. Long ones come more often: they hold most of what is to be learned."""
        counts = sorted(self.by_count)
        weights = np.array([1.0 + count for count in counts])
        count = counts[int(rng.choice(len(counts), p=weights / weights.sum()))]
        return self.take(rng.choice(self.by_count[count], size=size))

    def draw_any(self, rng: np.random.Generator, size: int) -> list[Sample]:
        """Samples with any number of objects."""
        return self.take(rng.integers(len(self.objects), size=size))

    def take(self, indices: npt.NDArray[np.int64]) -> list[Sample]:
        return [Sample(self.images[i], self.objects[int(i)]) for i in indices]


def open_cache(settings: SceneSettings, folder: Path, *, side: int, workers: int, progress: Progress | None = None) -> SceneCache:
    """Draw the scenes of `settings` unless `folder` holds them already."""
    progress = progress or NoProgress()
    pixels, listing, stamp = (folder / f"{settings.name}{suffix}" for suffix in (".npy", ".json", ".settings.json"))
    wanted = json.dumps({**asdict(settings), "side": side}, indent=2)
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
        _fill(settings, pixels, listing, side=side, workers=workers, progress=progress)
        write_text(stamp, wanted)
    rows = json.loads(listing.read_text(encoding="utf-8"))
    objects = [tuple(DetObject(desc, "bbox_2d", tuple(points)) for desc, points in row) for row in rows]
    counts = np.array([len(row) for row in objects])
    by_count = {int(n): np.flatnonzero(counts == n) for n in np.unique(counts)}
    return SceneCache(np.load(pixels, mmap_mode="r"), objects, by_count)


def _fill(settings: SceneSettings, pixels: Path, listing: Path, *, side: int, workers: int, progress: Progress) -> None:
    pixels.parent.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(pixels, mode="w+", dtype=np.uint8, shape=(settings.num_scenes, side, side, 3))
    starts = range(0, settings.num_scenes, _CHUNK)
    rows: list[list[tuple[str, tuple[float, ...]]]] = []
    with ProcessPoolExecutor(max_workers=min(workers, os.cpu_count() or 1)) as pool:
        chunks = pool.map(_draw_chunk, [settings] * len(starts), starts, [side] * len(starts))
        for start, samples in zip(starts, progress.track(chunks, f"draw {settings.name}", total=len(starts)), strict=True):
            images[start : start + len(samples)] = np.stack([sample.image for sample in samples])
            rows += [[(item.desc, item.points) for item in sample.objects] for sample in samples]
    images.flush()
    write_text(listing, json.dumps(rows))


def _draw_chunk(settings: SceneSettings, start: int, side: int) -> list[Sample]:
    return [scale_scene(render_scene(settings, index), side) for index in range(start, min(start + _CHUNK, settings.num_scenes))]


def to_patches(images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """[B, P, channels * temporal * patch * patch]: what the processor makes of each image, patches in merge order."""
    batch = (np.stack(images).astype(np.float32) / 255.0 - IMAGE_MEAN) / IMAGE_STD
    size, height, width, channels = batch.shape
    rows, columns = height // (PATCH_SIZE * MERGE_SIZE), width // (PATCH_SIZE * MERGE_SIZE)
    blocks = batch.reshape(size, rows, MERGE_SIZE, PATCH_SIZE, columns, MERGE_SIZE, PATCH_SIZE, channels)
    # -> batch, rows, columns, merge row, merge column, channel, patch row, patch column
    ordered = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)
    doubled = np.repeat(ordered[:, :, :, :, :, :, None], 2, axis=6)
    return np.ascontiguousarray(doubled.reshape(size, rows * columns * MERGE_SIZE**2, channels * 2 * PATCH_SIZE**2))
