"""Packing of segments that come out of rollouts: whole segments only, the oldest always in the next row, nothing dropped.

A row holds the better filled of two choices: first in, first out (each next segment that still fits), or the oldest and then always the longest that still
fits. Its fill is therefore never below first in, first out, and nothing waits for ever. A function of the lengths and the order of arrival alone.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter, deque
from collections.abc import Sequence

from coordexp.batching.plan import plan_single_rows
from coordexp.types.errors import DataError
from coordexp.types.sequences import Pack, Segment


def pack_rollouts(segments: Sequence[Segment], *, row_length: int, num_packs: int | None = None, donor: Segment | None = None) -> tuple[Pack, ...]:
    """All segments of one optimizer step on one rank, in packs of one row each; the first segment is the oldest.

    Args:
        segments: in order of arrival.
        row_length: tokens of a row.
        num_packs: when given, exactly this many packs: filler packs of weight 0 are added so that every rank runs equally many forwards.
        donor: what filler packs repeat; the shortest segment when not given.

    Raises:
        DataError: a segment is longer than the row.
        ValueError: more packs are needed than `num_packs`, or a filler is needed and there is nothing to repeat.
    """
    buffer = SegmentBuffer(row_length)
    for segment in segments:
        buffer.add(segment)
    rows: list[tuple[Segment, ...]] = []
    while len(buffer):
        rows.append(buffer.take_row())
    return plan_single_rows(rows, num_packs=num_packs, donor=donor)


class SegmentBuffer:
    """Segments that wait for a row, in order of arrival. Not safe for several threads.

    Example: with 70, 50, 40 and 30 tokens waiting and rows of 100, the first row is (70, 30) and the second (50, 40).
    """

    def __init__(self, row_length: int) -> None:
        self.row_length = row_length
        self._segments: dict[int, Segment] = {}
        self._num_added = 0
        self._num_tokens = 0
        self._arrivals = _ArrivalTree()
        self._by_length: dict[int, deque[int]] = {}
        self._lengths: list[int] = []
        """Every length that waits, ascending, once."""

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def num_tokens(self) -> int:
        """Of all that wait."""
        return self._num_tokens

    def add(self, segment: Segment) -> None:
        """Put a segment at the end.

        Raises:
            DataError: it is longer than the row.
        """
        if segment.length > self.row_length:
            raise DataError(
                f"a rollout and its target have {segment.length:,} tokens, more than a row of {self.row_length:,}",
                where=segment.sample_id,
                fix="raise global_max_length, lower rollout_matching.max_new_tokens, use smaller images, or take the sample out",
            )
        number, self._num_added = self._num_added, self._num_added + 1
        self._segments[number] = segment
        self._num_tokens += segment.length
        self._arrivals.append(segment.length)
        if segment.length not in self._by_length:
            self._by_length[segment.length] = deque()
            insort(self._lengths, segment.length)
        self._by_length[segment.length].append(number)

    def take_row(self) -> tuple[Segment, ...]:
        """Remove the next row: the oldest segment and what fits beside it, in order of arrival; empty when nothing waits."""
        if not self._segments:
            return ()
        in_order = self._first_in_first_out()
        longest = self._longest_first(in_order[0])
        chosen = longest if self._tokens_of(longest) > self._tokens_of(in_order) else in_order
        return tuple(self._remove(number) for number in sorted(chosen))

    def _tokens_of(self, numbers: Sequence[int]) -> int:
        return sum(self._segments[number].length for number in numbers)

    def _first_in_first_out(self) -> list[int]:
        """Each next segment that still fits."""
        chosen: list[int] = []
        room, number = self.row_length, self._arrivals.find(0, self.row_length)
        while number is not None:
            chosen.append(number)
            room -= self._segments[number].length
            number = self._arrivals.find(number + 1, room)
        return chosen

    def _longest_first(self, oldest: int) -> list[int]:
        """The oldest segment, then always the longest that still fits; of equally long ones the oldest."""
        chosen, num_taken = [oldest], Counter({self._segments[oldest].length: 1})
        room = self.row_length - self._segments[oldest].length
        place = bisect_right(self._lengths, room) - 1
        while place >= 0:
            length = self._lengths[place]
            waiting = self._by_length[length]
            if length > room or num_taken[length] == len(waiting):
                place = min(place - 1, bisect_right(self._lengths, room) - 1)
                continue
            # the oldest of all is the oldest of its length: what is taken of a length stands at its front
            chosen.append(waiting[num_taken[length]])
            num_taken[length] += 1
            room -= length
        return chosen

    def _remove(self, number: int) -> Segment:
        segment = self._segments.pop(number)
        self._num_tokens -= segment.length
        self._arrivals.remove(number)
        waiting = self._by_length[segment.length]
        # both choices take the oldest of a length first
        assert waiting[0] == number
        waiting.popleft()
        if not waiting:
            del self._by_length[segment.length]
            del self._lengths[bisect_right(self._lengths, segment.length) - 1]
        return segment


class _ArrivalTree:
    """The first of the waiting segments, from a given one on, that is not longer than the room: a tree of shortest lengths over the order of arrival."""

    _GONE = 1 << 62

    def __init__(self) -> None:
        self._capacity = 1
        self._start = 0
        """Number of the first leaf; leaves of segments that left are given up when the tree is rebuilt."""
        self._num_leaves = 0
        self._shortest = [self._GONE] * 2

    def append(self, length: int) -> None:
        if self._num_leaves == self._capacity:
            self._rebuild()
        self._num_leaves += 1
        self._set(self._num_leaves - 1, length)

    def remove(self, number: int) -> None:
        self._set(number - self._start, self._GONE)

    def find(self, number: int, room: int) -> int | None:
        """The first segment from `number` on that is not longer than `room`."""
        tree, place = self._shortest, max(number - self._start, 0) + self._capacity
        if max(number - self._start, 0) >= self._num_leaves:
            return None
        while tree[place] > room:
            # to the next subtree on the right, or up until there is one
            while place & 1:
                place >>= 1
            if place == 0:
                return None
            place += 1
        while place < self._capacity:
            place = 2 * place if tree[2 * place] <= room else 2 * place + 1
        return place - self._capacity + self._start

    def _set(self, leaf: int, length: int) -> None:
        tree, place = self._shortest, leaf + self._capacity
        tree[place] = length
        while place > 1:
            place >>= 1
            tree[place] = min(tree[2 * place], tree[2 * place + 1])

    def _rebuild(self) -> None:
        leaves = self._shortest[self._capacity : self._capacity + self._num_leaves]
        first = next((leaf for leaf, length in enumerate(leaves) if length != self._GONE), len(leaves))
        leaves = leaves[first:]
        self._start += first
        self._num_leaves = len(leaves)
        while self._capacity < 2 * max(1, len(leaves)):
            self._capacity *= 2
        self._shortest = [self._GONE] * (2 * self._capacity)
        self._shortest[self._capacity : self._capacity + len(leaves)] = leaves
        for place in range(self._capacity - 1, 0, -1):
            self._shortest[place] = min(self._shortest[2 * place], self._shortest[2 * place + 1])
