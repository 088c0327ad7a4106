from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.batching.packing import RowPlan, pack_stream, plan_rows

CAPACITY = 128
LENGTHS = st.lists(st.integers(1, CAPACITY), min_size=1, max_size=80)
BUFFERS = st.none() | st.integers(1, 20)


def rows_of(plan: RowPlan) -> list[list[int]]:
    return [plan.row(number).tolist() for number in range(len(plan))]


def heavy_tailed(count: int, *, seed: int) -> np.ndarray:
    """Tokens of samples with 1 to 300 objects, most with few."""
    random = np.random.default_rng(seed)
    return 800 + 17 * np.minimum(random.lognormal(1.75, 1.1, count).astype(np.int64) + 1, 300)


def first_fit_decreasing(lengths: np.ndarray, capacity: int) -> int:
    """The number of rows, by the textbook."""
    room: list[int] = []
    for length in sorted(lengths.tolist(), reverse=True):
        for row, free in enumerate(room):
            if free >= length:
                room[row] -= length
                break
        else:
            room.append(capacity - length)
    return len(room)


@given(lengths=LENGTHS, seed=st.integers(0, 9), buffer=BUFFERS, min_fill=st.sampled_from([0.0, 0.6, 1.0]))
def test_each_sample_is_in_exactly_one_row_and_no_row_is_over_its_capacity(lengths: list[int], seed: int, buffer: int | None, min_fill: float) -> None:
    plan = plan_rows(lengths, capacity=CAPACITY, seed=seed, buffer=buffer, min_fill=min_fill)
    assert sorted(plan.samples.tolist()) == list(range(len(lengths)))
    assert [sum(lengths[sample] for sample in row) for row in rows_of(plan)] == plan.tokens.tolist()
    assert plan.tokens.max() <= CAPACITY
    assert all(rows_of(plan))
    assert len(plan) >= plan.lower_bound == -(-sum(lengths) // CAPACITY)
    assert plan.fill == pytest.approx(sum(lengths) / (CAPACITY * len(plan)))


@given(lengths=LENGTHS, buffer=BUFFERS, drop_last=st.booleans())
def test_rows_are_a_function_of_lengths_and_seed(lengths: list[int], buffer: int | None, drop_last: bool) -> None:
    plans = [plan_rows(lengths, capacity=CAPACITY, seed=(3, 1), buffer=buffer, min_fill=0.6, drop_last=drop_last) for _ in range(2)]
    assert rows_of(plans[0]) == rows_of(plans[1])


@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_no_two_rows_of_a_plan_would_fit_into_one(lengths: list[int], seed: int) -> None:
    plan = plan_rows(lengths, capacity=CAPACITY, seed=seed)
    halves = np.sort(plan.tokens)[:2]
    assert len(plan) == 1 or halves.sum() > CAPACITY


@given(lengths=LENGTHS, seed=st.integers(0, 9), min_fill=st.sampled_from([0.3, 0.6, 1.0]))
def test_at_most_one_row_is_dropped_and_only_when_it_is_not_filled(lengths: list[int], seed: int, min_fill: float) -> None:
    whole = plan_rows(lengths, capacity=CAPACITY, seed=seed, min_fill=min_fill)
    cut = plan_rows(lengths, capacity=CAPACITY, seed=seed, min_fill=min_fill, drop_last=True)
    if len(whole) == 1 or whole.tokens.min() >= min_fill * CAPACITY:
        assert rows_of(cut) == rows_of(whole)
        return
    assert len(cut) <= len(whole)
    assert cut.left_out == len(lengths) - len(cut.samples) > 0
    assert len(set(cut.samples.tolist())) == len(cut.samples)


@pytest.mark.parametrize("capacity", [4096, 8192, 16384])
def test_long_tails_pack_no_worse_than_first_fit_decreasing(capacity: int) -> None:
    lengths = np.minimum(heavy_tailed(1500, seed=0), capacity)
    plan = plan_rows(lengths, capacity=capacity, seed=1)
    assert len(plan) <= first_fit_decreasing(lengths, capacity)


def test_long_tails_fill_their_rows() -> None:
    plan = plan_rows(heavy_tailed(5000, seed=0), capacity=16384, seed=1)
    assert plan.fill >= 0.98
    assert len(plan) <= 1.02 * plan.lower_bound


def test_epochs_differ_in_the_order_of_rows_and_in_who_meets_whom() -> None:
    lengths = heavy_tailed(400, seed=2)
    first, second = (plan_rows(lengths, capacity=16384, seed=(5, epoch)) for epoch in (0, 1))
    pairs = [{frozenset((a, b)) for row in rows_of(plan) for a in row for b in row if a < b} for plan in (first, second)]
    assert len(pairs[0] & pairs[1]) < 0.15 * len(pairs[0])


def test_neither_long_nor_short_samples_come_early() -> None:
    """The mean place of the tenth that is longest, over epochs, is the middle; so is that of the shortest."""
    lengths = heavy_tailed(400, seed=3)
    by_length = np.argsort(lengths)
    places = {"short": [], "long": []}
    for epoch in range(60):
        plan = plan_rows(lengths, capacity=16384, seed=(7, epoch))
        place = np.empty(len(lengths))
        place[plan.samples] = np.repeat((np.arange(len(plan)) + 0.5) / len(plan), np.diff(plan.starts))
        places["short"].append(place[by_length[:40]].mean())
        places["long"].append(place[by_length[-40:]].mean())
    assert np.mean(places["short"]) == pytest.approx(0.5, abs=0.05)
    assert np.mean(places["long"]) == pytest.approx(0.5, abs=0.05)


def test_dropping_the_last_row_leaves_out_other_samples_in_each_epoch() -> None:
    lengths = heavy_tailed(200, seed=4)
    everyone = set(range(200))
    plans = [plan_rows(lengths, capacity=16384, seed=(1, epoch), min_fill=1.0, drop_last=True) for epoch in range(4)]
    left_out = [everyone - set(plan.samples.tolist()) for plan in plans]
    assert all(left_out)
    assert len(set.union(*left_out)) > len(left_out[0])


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        pytest.param([3, 129], "sample 1 has 129 tokens, more than a row of 128", id="too-long"),
        pytest.param([3, 0], "sample 1 is empty", id="empty"),
        pytest.param([], "nothing to pack", id="nothing"),
    ],
)
def test_what_cannot_be_packed_is_refused(lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_rows(lengths, capacity=CAPACITY, seed=0)


def test_a_stream_is_read_no_further_than_its_buffer_reaches() -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[int, int]]:
        number = 0
        while True:
            read.append(number)
            yield number, 20 + number % 30
            number += 1

    rows = pack_stream(endless(), capacity=CAPACITY, buffer=16, min_fill=0.7)
    seen = [next(rows) for _ in range(40)]
    assert len(read) <= sum(map(len, seen)) + 16
    assert all(sum(20 + number % 30 for number in row) >= 0.7 * CAPACITY for row in seen)


def test_samples_that_fill_no_row_come_out_all_the_same() -> None:
    """Two samples of 70 never share a row of 128, and a row of one stays below the wanted fill."""
    rows = list(pack_stream(((number, 70) for number in range(9)), capacity=CAPACITY, buffer=3, min_fill=0.9))
    assert sorted(rows) == [[number] for number in range(9)]


def test_an_underfilled_row_waits_for_later_samples() -> None:
    stream = [("a", 128), ("b", 30), ("c", 98)]
    assert [sorted(row) for row in pack_stream(stream, capacity=CAPACITY, buffer=2, min_fill=0.7)] == [["a"], ["b", "c"]]
    assert sorted(pack_stream(stream, capacity=CAPACITY, buffer=2)) == [["a"], ["b"], ["c"]]


def test_the_last_row_of_a_stream_may_be_dropped_but_not_an_only_one() -> None:
    stream = [(number, 60) for number in range(5)]
    rows = list(pack_stream(stream, capacity=CAPACITY, buffer=4, min_fill=0.6, drop_last=True))
    assert [len(row) for row in rows] == [2, 2]
    assert list(pack_stream(stream[:1], capacity=CAPACITY, buffer=4, min_fill=0.6, drop_last=True)) == [[0]]


def test_a_buffer_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a buffer of 0 samples"):
        list(pack_stream([(0, 1)], capacity=CAPACITY, buffer=0))
