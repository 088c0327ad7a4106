"""Samples that cannot be read: an error that names the record, or left out, counted and named. Where one was, a forward is smaller or has weight 0."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, TypeVar

from coordexp.types.errors import DataError
from coordexp.types.sequences import Segment

T = TypeVar("T")


class OnError(Protocol):
    """Takes note of a sample that is left out; without one, the error is raised."""

    def __call__(self, sample_id: str, error: DataError) -> None: ...


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A record that was left out. Example: `SkippedRecord("train:12", reason="the image a.png cannot be decoded", times=2)`"""

    id: str
    reason: str
    times: int = 1
    """In training and evaluation together."""


class Source(Protocol):
    """Where segments come from."""

    def __len__(self) -> int: ...

    def encode(self, index: int, *, epoch: int) -> Segment: ...


class SampleReader:
    """Reads samples; what happens to one that cannot be read is decided here alone. May be called from several threads."""

    def __init__(self, source: Source, on_error: OnError | None = None) -> None:
        """`on_error` None: the error is raised."""
        self._source = source
        self._on_error = on_error

    def read(self, index: int, *, epoch: int) -> Segment | None:
        """None for a sample that is left out.

        Raises:
            DataError: it cannot be read, and is not to be left out; names the record.
        """
        return attempt(lambda: self._source.encode(index, epoch=epoch), on_error=self._on_error)

    def donor(self, places: Iterable[tuple[int, int]]) -> Segment:
        """A sample for a forward of weight 0: the first of these (index, epoch) that can be read, else the first of the source that can.

        Raises:
            DataError: none can be read.
        """
        failure = DataError("no sample can be read")
        for index, epoch in chain(places, ((index, 0) for index in range(len(self._source)))):
            try:
                return self._source.encode(index, epoch=epoch)
            except DataError as error:
                if self._on_error is None:
                    raise
                failure = error
        raise failure


def attempt(read: Callable[[], T], *, on_error: OnError | None) -> T | None:
    """What `read` returns; None when it cannot, after `on_error` has taken note.

    Raises:
        DataError: it cannot, and there is no `on_error`.
    """
    try:
        return read()
    except DataError as error:
        if on_error is None:
            raise
        on_error(error.where or "a sample", error)
        return None


class SkipLog:
    """Collects what was left out, from all threads of a process. Call it like an `OnError`."""

    def __init__(self) -> None:
        self._records: dict[str, SkippedRecord] = {}
        self._lock = threading.Lock()

    def __call__(self, sample_id: str, error: DataError) -> None:
        with self._lock:
            known = self._records.get(sample_id)
            self._records[sample_id] = SkippedRecord(sample_id, error.what) if known is None else replace(known, times=known.times + 1)

    def records(self) -> list[SkippedRecord]:
        """By id."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: record.id)


def merge_skipped(parts: Iterable[Iterable[SkippedRecord]]) -> list[SkippedRecord]:
    """Those of several processes together, by id."""
    merged: dict[str, SkippedRecord] = {}
    for record in (record for part in parts for record in part):
        known = merged.get(record.id)
        merged[record.id] = record if known is None else replace(known, times=known.times + record.times)
    return sorted(merged.values(), key=lambda record: record.id)


def describe_skipped(records: list[SkippedRecord]) -> str:
    """Example: `7 samples of 2 records were skipped, first train:12: the image a.png cannot be decoded`"""
    samples, first = sum(record.times for record in records), records[0]
    counts = f"{samples} sample{'s' if samples != 1 else ''} of {len(records)} record{'s' if len(records) != 1 else ''}"
    return f"{counts} were skipped, first {first.id}: {first.reason}"
