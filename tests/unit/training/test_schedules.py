from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.batching.packing import Indices
from coordexp.training.schedules import Group, PackedSchedule, RowSettings, StreamSchedule, row_facts, shuffled

CAPACITY = 100


def same_lengths(epoch: int) -> Indices:
    return np.array([60, 55, 52, 30, 30, 20, 10, 70, 45, 33], dtype=np.int64)


def make(lengths=same_lengths, *, rows_per_step: int = 2, seed: int = 3, drop_last_step: bool = False, **rows) -> PackedSchedule:
    return PackedSchedule(lengths, rows_per_step=rows_per_step, seed=seed, rows=RowSettings(capacity=CAPACITY, **rows), drop_last_step=drop_last_step)


def epoch_samples(schedule: PackedSchedule, epoch: int) -> list[int]:
    steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
    return sorted(sample for step in steps for group in schedule.groups(step) for sample in group.samples)


def growing(*, first: int, later: int):
    """As many samples of 60 tokens, which never share a row of 100, as there should be rows; the other samples have one token and fit in anywhere."""

    def lengths_of(epoch: int) -> Indices:
        count = first if epoch == 0 else later
        return np.array([60] * count + [1] * (max(first, later) - count), dtype=np.int64)

    return lengths_of


def test_an_epoch_sees_every_sample_once_in_rows_of_the_plan() -> None:
    schedule = make()
    for epoch in range(3):
        assert epoch_samples(schedule, epoch) == list(range(10))
        assert schedule.groups(epoch * schedule.steps_per_epoch)[0] == Group(tuple(schedule.plan(epoch).row(0).tolist()), epoch)


def test_steps_are_the_same_whatever_was_asked_before() -> None:
    steps = 3 * make().steps_per_epoch
    forward, backward = make(), make()
    expected = [forward.groups(step) for step in range(steps)]
    assert [backward.groups(step) for step in reversed(range(steps))] == expected[::-1]
    assert [make(seed=4).groups(step) for step in range(steps)] != expected


@pytest.mark.parametrize(
    ("first", "later", "drop_last_step", "seen", "sentence"),
    [
        pytest.param(5, 8, False, 6, "2 of them with 2 samples do not fit into 3 steps and are left out", id="cut"),
        pytest.param(5, 6, False, 6, None, id="a-row-more-fits"),
        pytest.param(5, 4, False, 5, "1 repeated to fill 3 steps", id="filled"),
        pytest.param(6, 5, False, 5, None, id="a-row-less-is-no-harm"),
        pytest.param(6, 5, True, 6, "1 repeated to fill 3 steps", id="full-steps-only"),
        pytest.param(6, 2, False, 6, "4 repeated to fill 3 steps", id="repeated-twice"),
    ],
)
def test_later_epochs_are_cut_or_filled_to_the_steps_of_the_first(first: int, later: int, drop_last_step: bool, seen: int, sentence: str | None) -> None:
    schedule = make(growing(first=first, later=later), drop_last_step=drop_last_step)
    assert schedule.steps_per_epoch == 3
    steps = [schedule.groups(step) for step in range(3, 6)]
    assert all(steps)
    assert sum(len(groups) for groups in steps) == seen
    text = schedule.describe(1)
    assert text is not None
    assert text.startswith("epoch 2: ")
    assert text.endswith(sentence) if sentence else ";" not in text


@given(counts=st.lists(st.integers(1, 25), min_size=2, max_size=4), rows_per_step=st.integers(1, 6), drop_last_step=st.booleans())
def test_no_step_is_empty_and_no_row_is_used_more_often_than_needed(counts: list[int], rows_per_step: int, drop_last_step: bool) -> None:
    schedule = make(lambda epoch: np.full(counts[epoch], 60, dtype=np.int64), rows_per_step=rows_per_step, drop_last_step=drop_last_step)
    for epoch, count in enumerate(counts):
        groups = [schedule.groups(step) for step in range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)]
        assert all(groups)
        assert all(len(step) == rows_per_step for step in groups[:-1])
        uses = Counter(sample for step in groups for group in step for sample in group.samples)
        assert len(uses) == min(count, schedule.steps_per_epoch * rows_per_step)
        assert max(uses.values()) - min(uses.values()) <= 1


def test_fewer_rows_than_a_step_are_one_step() -> None:
    schedule = make(rows_per_step=100, drop_last_step=True)
    assert schedule.steps_per_epoch == 1
    assert epoch_samples(schedule, 1) == list(range(10))


def test_the_last_row_is_dropped_and_counted() -> None:
    schedule = make(lambda _: np.full(9, 45, dtype=np.int64), min_fill=0.6, drop_last=True)
    facts = row_facts(schedule.first_plan)
    assert facts == {"capacity": 100, "rows": 4, "rows_lower_bound": 4, "fill": 0.9, "samples": 8, "samples_left_out": 1, "tokens": 360}
    assert schedule.describe(0) is None
    assert schedule.describe(1) == "epoch 2: 4 rows of 100 tokens, 90.0 % filled (lower bound 4), 1 sample left out"


def test_rows_that_no_full_step_takes_are_said_from_the_first_epoch_on() -> None:
    text = make(growing(first=5, later=5), drop_last_step=True).describe(0)
    assert text is not None
    assert text.endswith("1 of them with 1 sample does not fit into 2 steps and is left out")


class Reader:
    """Passes over ten samples in a seeded order; counts what was read."""

    def __init__(self) -> None:
        self.num_read = 0

    def __call__(self, number: int) -> Iterator[tuple[int, int]]:
        lengths = same_lengths(0)
        for sample in shuffled(10, seed=1, epoch=number):
            self.num_read += 1
            yield int(sample), int(lengths[sample])


def make_stream(reader: Reader) -> StreamSchedule:
    return StreamSchedule(reader, num_steps=20, rows_per_step=2, seed=1, rows=RowSettings(capacity=CAPACITY, buffer=4, min_fill=0.6))


def test_a_stream_goes_over_all_samples_pass_by_pass() -> None:
    schedule = make_stream(Reader())
    groups = [group for step in range(20) for group in schedule.groups(step)]
    for number in range(2):
        assert sorted(sample for group in groups if group.epoch == number for sample in group.samples) == list(range(10))
    assert [group.epoch for group in groups] == sorted(group.epoch for group in groups)
    assert {schedule.epoch_of(step) for step in range(20)} == {0}


def test_a_stream_is_a_function_of_the_step() -> None:
    expected = [make_stream(Reader()).groups(step) for step in range(12)]
    again = make_stream(Reader())
    assert [again.groups(step) for step in (5, 6, 6, 11, 2)] == [expected[step] for step in (5, 6, 6, 11, 2)]


def test_a_stream_is_read_as_far_as_it_is_used() -> None:
    reader = Reader()
    make_stream(reader).groups(0)
    assert reader.num_read <= 8


def test_an_endless_stream_of_nothing_is_refused() -> None:
    empty = StreamSchedule(lambda _: iter(()), num_steps=2, rows_per_step=1, seed=0, rows=RowSettings(capacity=CAPACITY, buffer=4))
    with pytest.raises(ValueError, match="holds no samples"):
        empty.groups(0)
    with pytest.raises(ValueError, match="needs a buffer"):
        StreamSchedule(lambda _: iter(()), num_steps=2, rows_per_step=1, seed=0, rows=RowSettings(capacity=CAPACITY))
