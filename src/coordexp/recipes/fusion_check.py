"""`coordexp data fusion`: a fusion file as training would read it: every file opened, every record checked, what an epoch draws from each set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordexp.config.fusion import FusionConfig, FusionDataset
from coordexp.config.loading import Loaded
from coordexp.data.jsonl import iter_records
from coordexp.data.mixture import Pool
from coordexp.data.paths import resolve_image
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress, Progress

_FileKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CheckedSet:
    """One data set of a mixture."""

    pool: Pool
    num_objects: int
    num_labels: int
    num_over_limit: int
    """Records with more objects than `max_objects_per_image`, of which so many are drawn anew in each epoch."""
    num_val: int | None
    """Records of its validation file; None: it has none."""
    num_leaked: int
    """Training images that are in a validation file of the mixture, also as links."""

    def sentence(self, total: int) -> str:
        """For people; `total` is the number of samples of an epoch."""
        pool = self.pool
        parts = [
            f"{pool.name}: {pool.size} records, {self.num_objects} objects, {self.num_labels} labels",
            f"ratio {pool.ratio:g}: {pool.quota} samples of an epoch ({pool.quota / total:.1%})",
            "no validation file" if self.num_val is None else f"{self.num_val} validation records",
        ]
        if not pool.with_replacement and round(pool.size * pool.ratio) > pool.size:
            parts.append("the ratio is cut to 1 by sample_without_replacement")
        if self.num_over_limit:
            parts.append(f"{self.num_over_limit} records above max_objects_per_image")
        if self.num_leaked:
            parts.append(f"WARNING: {self.num_leaked} training images are in a validation file")
        return "; ".join(parts)


def check_fusion(loaded: Loaded[FusionConfig], *, progress: Progress | None = None) -> tuple[CheckedSet, ...]:
    """Read every file of a mixture.

    Raises:
        DataError: a file that does not exist, a broken record, a missing image, a set without records, an epoch without samples.
    """
    progress = progress or NoProgress()
    datasets = loaded.config.datasets
    held_out: set[_FileKey] = set()
    num_val: dict[str, int | None] = {}
    for item in datasets:
        keys = None if item.val_jsonl is None else [key for key, _ in _read(item, item.val_jsonl, progress)]
        held_out |= set(keys or ())
        num_val[item.name] = None if keys is None else len(keys)
    checked = tuple(_check(item, held_out, num_val[item.name], progress) for item in datasets)
    if not any(found.pool.quota for found in checked):
        raise DataError("an epoch of this mixture holds no sample", where=str(loaded.path), fix="raise a ratio")
    return checked


def _check(item: FusionDataset, held_out: set[_FileKey], num_val: int | None, progress: Progress) -> CheckedSet:
    labels: set[str] = set()
    size = num_objects = num_over = num_leaked = 0
    for key, descs in _read(item, item.train_jsonl, progress):
        size += 1
        num_objects += len(descs)
        labels.update(descs)
        num_over += item.max_objects_per_image is not None and len(descs) > item.max_objects_per_image
        num_leaked += key in held_out
    if not size:
        raise DataError("there are no records", where=str(item.train_jsonl), fix="check the file")
    pool = Pool(item.name, size, ratio=item.ratio, with_replacement=not item.sample_without_replacement)
    return CheckedSet(pool, num_objects, len(labels), num_over, num_val, num_leaked)


def _read(item: FusionDataset, path: Path, progress: Progress) -> Iterator[tuple[_FileKey, list[str]]]:
    """Of each record: which file its image is, and its labels."""
    for record in progress.track(iter_records(path, coord_space=item.coord_space, dataset=item.name), f"read {path.name}"):
        where = f"{path}:{record.id.rpartition(':')[2]}"
        image = resolve_image(path.parent, record.image, where=where)
        try:
            status = os.stat(image)
        except FileNotFoundError as error:
            raise DataError(f"the image {image} does not exist", where=where, fix="check that the images lie where the record file says") from error
        yield (status.st_dev, status.st_ino), [found.desc for found in record.objects]
