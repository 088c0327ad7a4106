"""Ahead of the consumer, in order, and never further than asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from coordexp.pipeline.ahead import map_ahead


def test_results_come_in_order_whoever_is_first() -> None:
    gates = [threading.Event() for _ in range(3)]

    def work(number: int) -> int:
        if number < 2:
            gates[number + 1].wait(10)
        gates[number].set()
        return number * number

    assert list(map_ahead(work, range(3), num_threads=3, depth=3)) == [0, 1, 4]


def test_the_source_is_read_no_further_than_the_depth() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    assert list(islice(map_ahead(str, source(), num_threads=2, depth=4), 2)) == ["0", "1"]
    assert len(taken) <= 5


def test_an_error_appears_in_its_place() -> None:
    results = map_ahead(lambda number: 6 // number, [3, 0, 2], num_threads=1, depth=2)
    assert next(results) == 2
    with pytest.raises(ZeroDivisionError):
        next(results)
