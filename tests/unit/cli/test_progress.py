"""Progress: plain lines for files, a bar for terminals."""

from __future__ import annotations

import io

import pytest

from coordexp.cli.progress import BarProgress, LineProgress, console_progress, describe, spell_seconds


class Clock:
    """Every look at it is `step` seconds later."""

    def __init__(self, step: float) -> None:
        self.now = 0.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_plain_line_comes_every_ten_seconds_with_rate_and_time_left() -> None:
    stream = io.StringIO()
    items = list(LineProgress(stream, clock=Clock(4.0)).track(range(7), "rescale", total=7))
    assert items == list(range(7))
    assert stream.getvalue().splitlines() == ["rescale: 3/7, 0.2/s, 16 s left", "rescale: 6/7, 0.2/s, 4.0 s left", "rescale: 7 done in 32 s"]


def test_a_loop_of_unknown_length_has_no_time_left() -> None:
    assert describe("read", 10, None, 5.0) == "read: 10, 2.0/s"


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (9.96, "10 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_a_duration_is_spelt_for_people(seconds: float, text: str) -> None:
    assert spell_seconds(seconds) == text


def test_what_is_not_a_terminal_gets_plain_lines() -> None:
    assert isinstance(console_progress(io.StringIO()), LineProgress)


def test_a_bar_nests_and_leaves_a_sentence() -> None:
    stream = io.StringIO()
    bar = BarProgress(stream)
    for _ in bar.track([1, 2], "outer", total=2):
        list(bar.track([1], "inner", total=1))
    bar.say("[done]")
    text = stream.getvalue()
    assert text.count("inner: 1 done") == 2
    assert "outer: 2 done" in text
    assert "[done]" in text


def test_a_loop_that_is_left_early_closes_its_bar() -> None:
    bar = BarProgress(io.StringIO())
    for _ in bar.track(range(5), "outer"):
        break
    assert list(bar.track([1], "next")) == [1]
