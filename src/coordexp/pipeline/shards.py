"""Parts of one inference run that are done apart: whole windows, so that each window is generated as it would be in one run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from coordexp.types.errors import ConfigError

T = TypeVar("T")

_SHARD = re.compile(r"([0-9]+)/([0-9]+)")
_FOLDER = re.compile(r"([0-9]+)-of-([0-9]+)")
SHARDS = "shards"
"""Folder of the parts, beside the whole."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Example: `Shard.parse("3/8")` is the third of eight"""

    index: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Raises ConfigError unless it is `i/n` with 1 <= i <= n."""
        found = _SHARD.fullmatch(text.strip())
        shard = cls(int(found[1]), int(found[2])) if found is not None else None
        if shard is None or not 1 <= shard.index <= shard.count:
            raise ConfigError(f"{text!r} is no part", where="infer.shard", fix="write i/n with i from 1 to n, for instance 3/8")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def folder(self, whole: Path) -> Path:
        """Where the part's files lie, for a run in the folder `whole`."""
        return whole / SHARDS / f"{self.index}-of-{self.count}"

    def line_range(self, *, num_lines: int, window: int) -> range:
        """Places (from 0) of the input lines of this part: whole windows, in one piece; parts differ by at most one window."""
        num_windows = -(-num_lines // window)
        first, end = (num_windows * place // self.count for place in (self.index - 1, self.index))
        return range(min(first * window, num_lines), min(end * window, num_lines))

    def take(self, lines: Iterable[T], *, num_lines: int, window: int) -> Iterator[T]:
        """The lines of this part."""
        places = self.line_range(num_lines=num_lines, window=window)
        return islice(iter(lines), places.start, places.stop)


def find_shards(whole: Path) -> dict[Shard, Path]:
    """The parts that lie beside the whole, with their folders; sorted."""
    folder = whole / SHARDS
    found = [(match, entry) for entry in (folder.iterdir() if folder.is_dir() else ()) if (match := _FOLDER.fullmatch(entry.name)) and entry.is_dir()]
    shards = {Shard(int(match[1]), int(match[2])): entry for match, entry in found}
    return dict(sorted(shards.items(), key=lambda item: (item[0].count, item[0].index)))
