"""Several sources of samples end to end: sample numbers go through the first, then the second, and so on. Each keeps its settings, prompts and categories."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TypeAlias

from PIL import Image

from coordexp.codec.prompts import Prompt
from coordexp.rollout.samples import RolloutTask
from coordexp.training.samples import SampleLength, SegmentSource
from coordexp.types.errors import DataError
from coordexp.types.progress import Progress
from coordexp.types.records import Record
from coordexp.types.sequences import PromptInputs, Segment


class JoinedSource:
    """Example: `JoinedSource({"lvis": lvis, "vg": vg}).encode(len(lvis), epoch=0)` is the first sample of `vg`."""

    def __init__(self, sources: dict[str, SegmentSource]) -> None:
        """`sources` by the data set that their records name."""
        self._by_name = sources
        self._sources = list(sources.values())
        self._ends = list(accumulate(len(source) for source in self._sources))
        self.records: Sequence[Record] = [record for source in self._sources for record in source.records]

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def has_static_length(self) -> bool:
        return all(source.has_static_length for source in self._sources)

    @property
    def max_length(self) -> int | None:
        return self._sources[0].max_length

    def encode(self, index: int, *, epoch: int) -> Segment:
        source, local = self._locate(index)
        return source.encode(local, epoch=epoch)

    def rollout_task(self, index: int, *, epoch: int) -> RolloutTask:
        """Of the sample of that number."""
        source, local = self._locate(index)
        return replace(source.rollout_task(local, epoch=epoch), index=index)

    def picture(self, index: int, *, epoch: int) -> Image.Image:
        source, local = self._locate(index)
        return source.picture(local, epoch=epoch)

    def encode_prompt(self, index: int) -> PromptInputs:
        source, local = self._locate(index)
        return source.encode_prompt(local)

    def prompt(self, record: Record, *, epoch: int) -> Prompt:
        return self._by_name[record.dataset].prompt(record, epoch=epoch)

    def measure(self, index: int, *, epoch: int) -> SampleLength:
        source, local = self._locate(index)
        return source.measure(local, epoch=epoch)

    def row_length(self, index: int, *, epoch: int) -> int:
        source, local = self._locate(index)
        return source.row_length(local, epoch=epoch)

    def check_length(self, index: int, length: SampleLength) -> None:
        source, local = self._locate(index)
        source.check_length(local, length)

    def content_digest(self) -> str:
        return hashlib.sha256("\n".join(source.content_digest() for source in self._sources).encode()).hexdigest()

    def check(
        self, *, name: str, progress: Progress | None = None, lengths: Callable[[int], SampleLength] | None = None, skips_images: bool = False
    ) -> list[DataError]:
        errors: list[DataError] = []
        for start, (label, source) in zip([0, *self._ends], self._by_name.items(), strict=False):
            own = None if lengths is None else (lambda index, start=start, lengths=lengths: lengths(start + index))
            errors += source.check(name=f"{name} ({label})", progress=progress, lengths=own, skips_images=skips_images)
        return errors

    def _locate(self, index: int) -> tuple[SegmentSource, int]:
        number = bisect.bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


SampleSource: TypeAlias = SegmentSource | JoinedSource
"""What training and evaluation read."""
