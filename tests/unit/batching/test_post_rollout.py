from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.batching.post_rollout import SegmentBuffer, pack_rollouts
from coordexp.types.errors import DataError
from coordexp.types.sequences import Segment

LENGTHS = st.lists(st.integers(1, 100), max_size=40)


def segment(number: int, length: int) -> Segment:
    return Segment(
        sample_id=str(number),
        dataset="",
        token_ids=np.zeros(length, dtype=np.int32),
        ce_weight=np.ones(length, dtype=np.float32),
        roles=np.zeros(length, dtype=np.int8),
        slots=(),
        images=(),
    )


def segments(*lengths: int) -> list[Segment]:
    return [segment(number, length) for number, length in enumerate(lengths)]


def filled(*lengths: int, row_length: int = 100) -> SegmentBuffer:
    buffer = SegmentBuffer(row_length)
    for item in segments(*lengths):
        buffer.add(item)
    return buffer


def rows(buffer: SegmentBuffer) -> list[list[int]]:
    found: list[list[int]] = []
    while len(buffer):
        found.append([item.length for item in buffer.take_row()])
    return found


def first_in_first_out(lengths: list[int], row_length: int) -> int:
    """Tokens of the row that takes every next segment that still fits."""
    total = 0
    for length in lengths:
        total += length if total + length <= row_length else 0
    return total


def test_the_oldest_and_the_best_filling_others_share_a_row() -> None:
    assert rows(filled(70, 50, 40, 30)) == [[70, 30], [50, 40]]


def test_first_in_first_out_stays_where_nothing_fills_better() -> None:
    assert rows(filled(40, 30, 30, 60)) == [[40, 30, 30], [60]]
    assert rows(filled(40, 30, 60, 30)) == [[40, 30, 30], [60]]


def test_of_equally_long_segments_the_oldest_goes_first() -> None:
    buffer = filled(50, 30, 50, 50)
    assert [item.sample_id for item in buffer.take_row()] == ["0", "2"]
    assert [item.sample_id for item in buffer.take_row()] == ["1", "3"]


def test_an_empty_buffer_gives_an_empty_row() -> None:
    buffer = SegmentBuffer(10)
    assert (buffer.take_row(), len(buffer), buffer.num_tokens) == ((), 0, 0)


def test_a_segment_longer_than_the_row_fails_when_it_is_added_with_the_settings_to_change() -> None:
    buffer = filled(100)
    with pytest.raises(
        DataError, match=r"7: a rollout and its target have 101 tokens, more than a row of 100; raise global_max_length, lower rollout_matching"
    ):
        buffer.add(segment(7, 101))
    assert (len(buffer), buffer.num_tokens) == (1, 100)


def test_packs_are_filled_up_to_the_number_that_is_asked_for() -> None:
    packs = pack_rollouts(segments(70, 50, 40, 30), row_length=100, num_packs=4)
    assert [(pack.num_tokens, pack.is_filler) for pack in packs] == [(100, False), (90, False), (30, True), (30, True)]
    donor = segment(9, 5)
    assert [pack.segments for pack in pack_rollouts([], row_length=100, num_packs=1, donor=donor)] == [(donor,)]


def test_too_few_packs_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows are more than 1 packs"):
        pack_rollouts(segments(70, 50), row_length=100, num_packs=1)


@given(lengths=LENGTHS)
def test_each_row_has_the_oldest_and_at_least_the_fill_of_first_in_first_out(lengths: list[int]) -> None:
    buffer = filled(*lengths)
    waiting = {str(number): length for number, length in enumerate(lengths)}
    while len(buffer):
        row = [item.sample_id for item in buffer.take_row()]
        fill = sum(waiting[name] for name in row)
        assert row[0] == next(iter(waiting))
        assert first_in_first_out(list(waiting.values()), 100) <= fill <= 100
        assert row == sorted(row, key=int)
        for name in row:
            del waiting[name]
        assert (len(buffer), buffer.num_tokens) == (len(waiting), sum(waiting.values()))
    assert waiting == {}


@given(lengths=LENGTHS)
def test_the_same_segments_make_the_same_packs_and_nothing_is_lost(lengths: list[int]) -> None:
    packs = [pack_rollouts(segments(*lengths), row_length=100) for _ in range(2)]
    names = [[[item.sample_id for item in pack.segments] for pack in plan] for plan in packs]
    assert names[0] == names[1]
    assert sorted((name for pack in names[0] for name in pack), key=int) == [str(number) for number in range(len(lengths))]


@given(seed=st.integers(0, 2**32))
def test_segments_may_come_while_rows_go(seed: int) -> None:
    rng = random.Random(seed)
    buffer, waiting = SegmentBuffer(50), list[Segment]()
    for number in range(rng.randrange(1, 200)):
        if rng.random() < 0.7:
            waiting.append(segment(number, rng.randrange(1, 51)))
            buffer.add(waiting[-1])
        elif waiting:
            expected = first_in_first_out([item.length for item in waiting], 50)
            row = buffer.take_row()
            assert row[0] is waiting[0]
            assert sum(item.length for item in row) >= expected
            waiting = [item for item in waiting if item not in row]
    assert sum(map(len, iter(buffer.take_row, ()))) == len(waiting)
