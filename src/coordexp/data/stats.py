"""Numbers of a record file in one pass: counts, sizes, positions, the tail of labels. Memory grows with the number of labels and image sizes only."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordexp.data.convert import to_pixels
from coordexp.data.importers.build import box_of
from coordexp.types.errors import DataError
from coordexp.types.records import Record

GRID = 20
"""Cells along a side of the map of positions."""
_SIZE_BINS = 20
_ASPECT_LIMIT, _ASPECT_BINS = 4, 16
_SMALL, _MEDIUM = 32.0**2, 96.0**2
"""Square pixels, as COCO parts them."""
_LONGEST = 20
"""Samples of most tokens that are named."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Example: `Histogram(edges=(0, 0.5, 1), counts=(7, 2))`"""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(slots=True)
class TokenLengths:
    """Tokens of samples, prompt, image and answer together."""

    limit: int | None
    """`global_max_length`"""
    num_over: int = 0
    """Samples with more tokens than the limit."""
    lengths: array[int] = field(default_factory=lambda: array("i"))
    """Of every record, in order."""
    longest: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(tokens, record) of the longest, the longest first."""

    def add(self, length: int, record: str) -> None:
        self.lengths.append(length)
        self.num_over += self.limit is not None and length > self.limit
        if len(self.longest) < _LONGEST or length > self.longest[-1][0]:
            self.longest = sorted([*self.longest, (length, record)], key=lambda item: -item[0])[:_LONGEST]

    def percentile(self, share: float) -> int:
        """The length that `share` percent of the samples do not exceed."""
        return int(np.percentile(self.lengths, share, method="higher"))


@dataclass(slots=True)
class DataStats:
    """What a record file holds."""

    name: str
    num_records: int = 0
    num_objects: int = 0
    num_empty: int = 0
    kinds: Counter[str] = field(default_factory=Counter[str])
    spaces: Counter[str] = field(default_factory=Counter[str])
    datasets: Counter[str] = field(default_factory=Counter[str])
    """Records by `metadata.dataset`, which a merge writes."""
    objects_per_image: Counter[int] = field(default_factory=Counter[int])
    image_sizes: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    labels: Counter[str] = field(default_factory=Counter[str])
    """Objects by label."""
    label_images: Counter[str] = field(default_factory=Counter[str])
    """Images by label."""
    size_classes: Counter[str] = field(default_factory=Counter[str])
    """Boxes that are small (below 32² pixels), medium, large (from 96² pixels)."""
    sizes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_SIZE_BINS, dtype=np.int64))
    """Boxes by the square root of their share of the image, in bins of 0.05."""
    aspects: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_ASPECT_BINS, dtype=np.int64))
    """Boxes by log2(width / height), in bins of 0.5 from -4 to 4; what lies beyond counts in the outer bins."""
    centres: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((GRID, GRID), dtype=np.int64))
    """[row, column] Box centres."""
    lengths: TokenLengths | None = None

    def add(self, record: Record) -> None:
        """Count one record."""
        self.num_records += 1
        self.num_objects += len(record.objects)
        self.num_empty += not record.objects
        self.spaces[record.coord_space] += 1
        self.objects_per_image[len(record.objects)] += 1
        self.image_sizes[record.width, record.height] += 1
        dataset = record.metadata.get("dataset")
        if isinstance(dataset, str):
            self.datasets[dataset] += 1
        self.label_images.update({item.desc for item in record.objects})
        for item in to_pixels(record).objects:
            self.kinds[item.kind] += 1
            self.labels[item.desc] += 1
            self._add_box(box_of(item), record.width, record.height)

    def _add_box(self, box: tuple[float, float, float, float], width: int, height: int) -> None:
        x1, y1, x2, y2 = box
        area = (x2 - x1) * (y2 - y1)
        self.size_classes["small" if area < _SMALL else "medium" if area < _MEDIUM else "large"] += 1
        self.sizes[_cell(math.sqrt(area / (width * height)), _SIZE_BINS)] += 1
        ratio = math.log2(max(x2 - x1, 1e-6) / max(y2 - y1, 1e-6))
        self.aspects[_cell((ratio + _ASPECT_LIMIT) / (2 * _ASPECT_LIMIT), _ASPECT_BINS)] += 1
        self.centres[_cell((y1 + y2) / 2 / height, GRID), _cell((x1 + x2) / 2 / width, GRID)] += 1

    @property
    def size_histogram(self) -> Histogram:
        return Histogram(tuple(float(edge) for edge in np.linspace(0, 1, _SIZE_BINS + 1)), tuple(self.sizes.tolist()))

    @property
    def aspect_histogram(self) -> Histogram:
        return Histogram(tuple(float(edge) for edge in np.linspace(-_ASPECT_LIMIT, _ASPECT_LIMIT, _ASPECT_BINS + 1)), tuple(self.aspects.tolist()))

    def tail(self) -> dict[str, Any]:
        """How the objects are spread over the labels."""
        counts = sorted(self.labels.values(), reverse=True)
        total = max(1, sum(counts))
        return {
            "labels": len(counts),
            "with_one_object": sum(count == 1 for count in counts),
            "with_at_most_10_objects": sum(count <= 10 for count in counts),
            "share_of_the_10_most_frequent": round(sum(counts[:10]) / total, 4),
            "labels_that_hold_half_of_the_objects": _num_until(counts, total / 2),
        }

    def sentence(self) -> str:
        """The counts as one phrase."""
        tail = self.tail()
        mean = self.num_objects / max(1, self.num_records)
        parts = [
            f"{self.num_records} records, {self.num_objects} objects ({mean:.2f} an image), {self.num_empty} without objects",
            f"{tail['labels']} labels, {tail['with_at_most_10_objects']} of them with at most 10 objects",
        ]
        if self.lengths is not None:
            limit = "" if self.lengths.limit is None else f", {self.lengths.num_over} above {self.lengths.limit}"
            parts.append(f"tokens: median {self.lengths.percentile(50)}, most {max(self.lengths.lengths)}{limit}")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-serializable."""
        tree: dict[str, Any] = {
            "name": self.name,
            "records": self.num_records,
            "objects": self.num_objects,
            "without_objects": self.num_empty,
            "kinds": dict(self.kinds),
            "coord_spaces": dict(self.spaces),
            "datasets": dict(self.datasets),
            "objects_per_image": {str(number): count for number, count in sorted(self.objects_per_image.items())},
            "image_sizes": [{"width": width, "height": height, "records": count} for (width, height), count in self.image_sizes.most_common()],
            "box_sizes": dict(self.size_classes),
            "box_side_share": {"edges": self.size_histogram.edges, "counts": self.size_histogram.counts},
            "box_log2_aspect": {"edges": self.aspect_histogram.edges, "counts": self.aspect_histogram.counts},
            "box_centres": self.centres.tolist(),
            "labels": dict(self.labels.most_common()),
            "label_images": dict(self.label_images.most_common()),
            "label_tail": self.tail(),
        }
        if self.lengths is not None:
            shares = {f"p{share}": self.lengths.percentile(share) for share in (5, 50, 90, 95, 99, 100)}
            longest = [{"record": name, "tokens": length} for length, name in self.lengths.longest]
            tree["token_lengths"] = {"limit": self.lengths.limit, "above_limit": self.lengths.num_over, **shares, "longest": longest}
        return tree


def collect_stats(records: Iterable[Record], *, name: str) -> DataStats:
    """The numbers of records.

    Raises:
        DataError: a broken record, or none at all.
    """
    stats = DataStats(name)
    for record in records:
        stats.add(record)
    if not stats.num_records:
        raise DataError("there are no records", where=name, fix="check the file")
    return stats


def stats_paths(source: Path) -> tuple[Path, Path]:
    """Example: `train.coord.jsonl` has `train.coord.stats.html` and `train.coord.stats.json`."""
    return source.with_suffix(".stats.html"), source.with_suffix(".stats.json")


def _cell(share: float, num: int) -> int:
    return min(num - 1, max(0, int(share * num)))


def _num_until(counts: list[int], goal: float) -> int:
    """How many of the first counts reach `goal` together."""
    reached = 0
    for number, count in enumerate(counts, start=1):
        reached += count
        if reached >= goal:
            return number
    return len(counts)
