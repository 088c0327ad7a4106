"""Bootstrap over images: resamples with replacement, as the number of times that each image was drawn. Nothing is matched again.

Every statistic is computed on the same resamples, so the difference of two of them, such as the F1 of two runs, is paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coordexp.evaluation.columns import Floats
from coordexp.types.progress import NoProgress, Progress

LEVEL = 0.95
DEFAULT_SEED = 0

_CELLS_AT_ONCE = 1_000_000
"""Weights that are held at once, 8 bytes each."""


class Statistic(Protocol):
    """A number, or several, of a set of images in which each image has a weight."""

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """`weights` [I, R]: how often image i was drawn in resample r. Returns key → [R]; NaN where the number is undefined."""
        ...


@dataclass(frozen=True, slots=True)
class Resampling:
    """Example: `Resampling(num_images=5000, num_resamples=1000)`"""

    num_images: int
    num_resamples: int
    seed: int = DEFAULT_SEED

    def weights(self, *, at_once: int | None = None) -> Iterator[Floats]:
        """All resamples in portions [I, r]; what is drawn does not depend on the portions."""
        generator = np.random.default_rng(self.seed)
        portion = at_once or max(1, min(256, _CELLS_AT_ONCE // max(1, self.num_images)))
        for start in range(0, self.num_resamples, portion):
            size = min(portion, self.num_resamples - start)
            rows = [np.bincount(generator.integers(0, self.num_images, self.num_images), minlength=self.num_images) for _ in range(size)]
            yield np.ascontiguousarray(np.stack(rows, axis=1), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals by metric key. Example: `intervals.of["f1_det@0.50"] == (0.69, 0.74)`"""

    of: Mapping[str, tuple[float, float]]
    """Percentiles 2.5 and 97.5. A key whose number is undefined in every resample is absent."""
    num_resamples: int
    seed: int
    undefined: Mapping[str, int]
    """In how many resamples a number was undefined, such as the AP of small objects without a small object; its interval is that of the others."""

    @classmethod
    def from_values(cls, values: Mapping[str, Floats], resampling: Resampling) -> Intervals:
        """`values`: for each key those of the resamples [R], NaN where undefined."""
        found = {key: percentile_interval(column) for key, column in values.items()}
        undefined = {key: int(np.isnan(column).sum()) for key, column in values.items()}
        return cls(
            {key: interval for key, interval in found.items() if interval is not None},
            resampling.num_resamples,
            resampling.seed,
            {key: count for key, count in undefined.items() if count},
        )

    def how(self) -> dict[str, object]:
        """What `metrics.json` says about them."""
        return {
            "num_resamples": self.num_resamples,
            "seed": self.seed,
            "level": LEVEL,
            "method": "percentiles of resamples of the images",
            "undefined": dict(self.undefined),
        }


def resample(statistics: Sequence[Statistic], resampling: Resampling, *, progress: Progress | None = None) -> list[dict[str, Floats]]:
    """The values of each statistic in every resample: for each statistic, key → [R]."""
    portions: list[list[dict[str, Floats]]] = [[] for _ in statistics]
    bar = (progress or NoProgress()).track(_one_by_one(statistics, resampling, portions), "bootstrap", total=resampling.num_resamples)
    for _ in bar:
        pass
    return [{key: np.concatenate([part[key] for part in parts]) for key in parts[0]} for parts in portions]


def _one_by_one(statistics: Sequence[Statistic], resampling: Resampling, portions: list[list[dict[str, Floats]]]) -> Iterator[int]:
    """Fills `portions` and yields once a resample, so that a bar counts resamples."""
    for weights in resampling.weights():
        for statistic, parts in zip(statistics, portions, strict=True):
            parts.append(statistic(weights))
        yield from range(weights.shape[1])


def percentile_interval(values: Floats) -> tuple[float, float] | None:
    """The middle 95 % of the defined values [R]; None without any."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return float(low), float(high)
