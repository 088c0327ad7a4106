"""Mixtures of data sets: which records an epoch holds, as a function of seed and epoch alone. Knows sizes, not records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_KEPT_EPOCHS = 2

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """One data set of a mixture. Example: `Pool("lvis", size=1000, ratio=0.5).quota == 500`"""

    name: str
    size: int
    """Records."""
    ratio: float = 1.0
    with_replacement: bool = True
    """Records may come again in an epoch when the quota is above the size; without it the quota ends there."""

    @property
    def quota(self) -> int:
        """Samples of an epoch."""
        wanted = round(self.size * self.ratio)
        return wanted if self.with_replacement else min(wanted, self.size)

    def draw(self, generator: np.random.Generator) -> Indices:
        """Indices within the pool: every record at most once before any comes again."""
        if self.quota == self.size:
            return np.arange(self.size)
        once = generator.permutation(self.size)[: self.quota]
        return np.concatenate((once, generator.integers(self.size, size=self.quota - len(once))))


class Mixture:
    """The pools end to end: pool p's record i is number `offset of p + i`. What one pool draws does not depend on the others.

    `epoch(e)` gives the records of an epoch by their numbers, pool by pool: whoever trains on them shuffles.

    Example: `Mixture([Pool("a", 100), Pool("b", 10, ratio=2.0)], seed=1).epoch(0).shape == (120,)`
    """

    def __init__(self, pools: Sequence[Pool], *, seed: int) -> None:
        """Raises ValueError when an epoch would be empty."""
        self.pools = tuple(pools)
        self._seed = seed
        self.epoch = lru_cache(maxsize=_KEPT_EPOCHS)(self._draw)
        self._offsets = np.cumsum([0, *(pool.size for pool in pools)])
        if len(self) < 1:
            raise ValueError("an epoch of this mixture holds no sample")

    def __len__(self) -> int:
        """Samples of an epoch; the same in each."""
        return sum(pool.quota for pool in self.pools)

    def _draw(self, epoch: int) -> Indices:
        parts = [
            offset + pool.draw(np.random.default_rng((self._seed, epoch, _number(pool.name))))
            for offset, pool in zip(self._offsets[:-1], self.pools, strict=True)
        ]
        return np.concatenate(parts).astype(np.int64)


def _number(name: str) -> int:
    """The same on every machine, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
