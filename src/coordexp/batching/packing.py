"""Which whole samples share a row of fixed length. Works on lengths alone: no tensors, no pixels.

A row starts with the next sample of a shuffled order and draws on from that order while much room is left; then it is closed with the longest samples that
still fit. Drawing keeps rows mixed and different in every epoch, the best fit at the end leaves hardly any room: no more rows than first-fit-decreasing
gives, in a time that is linear in the number of samples (`benchmarks/packing.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Indices: TypeAlias = npt.NDArray[np.int64]

_DRAWS = (1.5, 2.0)
"""A row draws samples as they come while more room is left than this many samples of mean length: the first for rows of many samples, the second of few."""
_GOOD_ENOUGH = 1.01
"""Rows over their lower bound that leave no reason to try further."""


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Rows of samples, in the order in which they are trained on.

    Example: rows (2, 0) and (1,) of capacity 10: `RowPlan(samples=array([2, 0, 1]), starts=array([0, 2, 3]), tokens=array([9, 7]), capacity=10, left_out=0)`
    """

    samples: Indices
    """The samples of row r are `samples[starts[r] : starts[r + 1]]`."""
    starts: Indices
    tokens: Indices
    """Tokens of each row."""
    capacity: int
    left_out: int
    """Samples that are in no row (`drop_last`)."""

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, number: int) -> Indices:
        return self.samples[self.starts[number] : self.starts[number + 1]]

    @property
    def lower_bound(self) -> int:
        """Rows that the tokens would fill if samples could be split."""
        return -(-int(self.tokens.sum()) // self.capacity)

    @property
    def fill(self) -> float:
        """Share of the rows' room that holds tokens."""
        return float(self.tokens.sum()) / (len(self) * self.capacity)


def plan_rows(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    *,
    capacity: int,
    seed: int | Sequence[int],
    buffer: int | None = None,
    min_fill: float = 0.0,
    drop_last: bool = False,
) -> RowPlan:
    """Rows for one epoch: each sample once, no row over its capacity, the order of rows and which samples meet in one decided by `seed`.

    Args:
        lengths: tokens of each sample, at least 1 and at most `capacity`.
        capacity: tokens of a row.
        seed: the same seed gives the same rows; give (seed, epoch) for rows that differ between epochs.
        buffer: look at so many samples of the shuffled order at a time, as `pack_stream` does; None: at all of them.
        min_fill: with `buffer`, rows filled less wait for later samples; with `drop_last` the limit below which a last row is left out.
        drop_last: have one row less when the least filled row is below `min_fill`: as many samples are left out, from the end of the shuffled order (with
            `buffer`: those of the last row), so that every sample has the same chance.

    Raises:
        ValueError: there are no samples, or one is longer than a row or empty.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    _check(sizes, capacity)
    random = np.random.default_rng(seed)
    order = random.permutation(len(sizes))
    table = sizes.tolist()
    if buffer is not None:
        stream = ((sample, table[sample]) for sample in order.tolist())
        rows = list(pack_stream(stream, capacity=capacity, buffer=buffer, seed=random, min_fill=min_fill, drop_last=drop_last))
    else:
        rows = _fill(table, order.tolist(), capacity)
        if drop_last:
            rows = _drop_one_row(rows, table, order.tolist(), capacity, min_fill)
        rows = [rows[number] for number in random.permutation(len(rows)).tolist()]
    return _as_plan(rows, sizes, capacity)


def pack_stream(
    samples: Iterable[tuple[T, int]],
    *,
    capacity: int,
    buffer: int,
    seed: int | Sequence[int] | np.random.Generator = 0,
    min_fill: float = 0.0,
    drop_last: bool = False,
) -> Iterator[list[T]]:
    """Rows from samples that come one after the other, with at most `buffer` of them in memory.

    When the buffer is full its samples are packed. Rows filled to `min_fill` or more come out, in an order decided by `seed`; the samples of the others wait
    for more. When no row is filled that well the fullest one comes out, so nothing waits for ever. At the end of the stream all come out, but with
    `drop_last` the least filled row is left out when it is below `min_fill`.

    Args:
        samples: pairs (sample, length in tokens).
        capacity: tokens of a row.
        buffer: samples that are looked at together, at least 1.
        seed: of the order.
        min_fill: share of `capacity`.
        drop_last: see above; a stream that makes a single row keeps it.

    Raises:
        ValueError: a sample is longer than a row or empty.

    Example: `list(pack_stream([("a", 6), ("b", 7), ("c", 4)], capacity=10, buffer=8))` holds the rows a, c and b
    """
    if buffer < 1:
        raise ValueError(f"a buffer of {buffer} samples holds nothing")
    source, random = iter(samples), np.random.default_rng(seed)
    waiting: list[tuple[T, int]] = []
    is_first = True
    while fresh := list(islice(source, buffer - len(waiting))):
        waiting += fresh
        if len(waiting) < buffer:
            break
        ready, waiting = _ready_rows(waiting, capacity, random, min_fill)
        is_first = False
        yield from ready
    if waiting:
        rows = _pack_buffer(waiting, capacity, random)
        least = min(rows, key=lambda row: sum(length for _, length in row))
        if drop_last and not (is_first and len(rows) == 1) and sum(length for _, length in least) < min_fill * capacity:
            rows.remove(least)
        yield from ([sample for sample, _ in row] for row in rows)


def _ready_rows(waiting: list[tuple[T, int]], capacity: int, random: np.random.Generator, min_fill: float) -> tuple[list[list[T]], list[tuple[T, int]]]:
    """(rows that come out, samples that wait on)."""
    rows = _pack_buffer(waiting, capacity, random)
    tokens = [sum(length for _, length in row) for row in rows]
    limit = min(min_fill * capacity, max(tokens))
    ready = [[sample for sample, _ in row] for row, count in zip(rows, tokens, strict=True) if count >= limit]
    return ready, [pair for row, count in zip(rows, tokens, strict=True) if count < limit for pair in row]


def _pack_buffer(waiting: Sequence[tuple[T, int]], capacity: int, random: np.random.Generator) -> list[list[tuple[T, int]]]:
    lengths = [length for _, length in waiting]
    _check(np.asarray(lengths, dtype=np.int64), capacity)
    rows = _fill(lengths, random.permutation(len(lengths)).tolist(), capacity)
    return [[waiting[place] for place in rows[number]] for number in random.permutation(len(rows)).tolist()]


def _check(sizes: npt.NDArray[np.int64], capacity: int) -> None:
    if len(sizes) == 0:
        raise ValueError("there is nothing to pack")
    if sizes.max() > capacity:
        raise ValueError(f"sample {int(sizes.argmax())} has {int(sizes.max())} tokens, more than a row of {capacity}")
    if sizes.min() < 1:
        raise ValueError(f"sample {int(sizes.argmin())} is empty")


def _fill(lengths: Sequence[int], order: Sequence[int], capacity: int) -> list[list[int]]:
    """The samples of `order` in rows: the best of the ways to draw."""
    total = sum(lengths[sample] for sample in order)
    best: list[list[int]] | None = None
    for draws in _DRAWS:
        rows = _fill_drawing(lengths, order, capacity, much_room=draws * total / len(order))
        if best is None or len(rows) < len(best):
            best = rows
        if len(best) <= _GOOD_ENOUGH * -(-total // capacity):
            break
    assert best is not None
    return best


def _fill_drawing(lengths: Sequence[int], order: Sequence[int], capacity: int, *, much_room: float) -> list[list[int]]:
    shelf = _Shelf(lengths, order, capacity)
    shortest = shelf.shortest
    rows: list[list[int]] = []
    while (first := shelf.take_next(capacity)) is not None:
        row, room = [first], capacity - lengths[first]
        while room >= shortest:
            sample = shelf.take_next(room) if room > much_room else None
            if sample is None:
                sample = shelf.take_longest(room)
            if sample is None:
                break
            row.append(sample)
            room -= lengths[sample]
        rows.append(row)
    return rows


class _Shelf:
    """Samples that are in no row yet. The longest one that fits is found in a set of bits, one for each length, in words of 64 with a word of words above."""

    def __init__(self, lengths: Sequence[int], order: Sequence[int], capacity: int) -> None:
        self._lengths = lengths
        self._unseen = list(reversed(order))
        self._is_taken = bytearray(len(lengths))
        self._by_length: dict[int, list[int]] = defaultdict(list)
        for sample in self._unseen:
            self._by_length[lengths[sample]].append(sample)
        self._left = {length: len(samples) for length, samples in self._by_length.items()}
        self._words = [0] * (capacity // 64 + 1)
        self._used_words = 0
        for length in self._left:
            self._words[length >> 6] |= 1 << (length & 63)
            self._used_words |= 1 << (length >> 6)
        self.shortest = min(self._left)

    def take_next(self, room: int) -> int | None:
        """The next sample of the order, if it is not longer than `room`."""
        unseen, taken = self._unseen, self._is_taken
        while unseen and taken[unseen[-1]]:
            unseen.pop()
        if not unseen or self._lengths[unseen[-1]] > room:
            return None
        sample = unseen.pop()
        self._take(sample, self._lengths[sample])
        return sample

    def take_longest(self, room: int) -> int | None:
        """The longest sample that is not longer than `room`; of several the first in the order."""
        number = room >> 6
        bits = self._words[number] & ((2 << (room & 63)) - 1)
        if not bits:
            below = self._used_words & ((1 << number) - 1)
            if not below:
                return None
            number = below.bit_length() - 1
            bits = self._words[number]
        length = (number << 6) + bits.bit_length() - 1
        samples, taken = self._by_length[length], self._is_taken
        while taken[samples[-1]]:
            samples.pop()
        sample = samples.pop()
        self._take(sample, length)
        return sample

    def _take(self, sample: int, length: int) -> None:
        self._is_taken[sample] = 1
        left = self._left[length] - 1
        self._left[length] = left
        if not left:
            number = length >> 6
            self._words[number] ^= 1 << (length & 63)
            if not self._words[number]:
                self._used_words ^= 1 << number


def _drop_one_row(rows: list[list[int]], lengths: Sequence[int], order: Sequence[int], capacity: int, min_fill: float) -> list[list[int]]:
    """One row less, when the least filled one is below `min_fill` and not the only one."""
    target, kept = len(rows) - 1, list(order)
    while len(rows) > max(target, 1):
        spare = min(sum(lengths[sample] for sample in row) for row in rows)
        if spare >= min_fill * capacity:
            break
        while spare > 0:
            spare -= lengths[kept.pop()]
        rows = _fill(lengths, kept, capacity)
    return rows


def _as_plan(rows: Sequence[Sequence[int]], sizes: npt.NDArray[np.int64], capacity: int) -> RowPlan:
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    samples = np.fromiter((sample for row in rows for sample in row), dtype=np.int64, count=int(starts[-1]))
    tokens = np.add.reduceat(sizes[samples], starts[:-1])
    return RowPlan(samples=samples, starts=starts, tokens=tokens, capacity=capacity, left_out=len(sizes) - len(samples))
