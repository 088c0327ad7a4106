"""Progress on the console: a bar with rate and time left on a terminal, a plain line every ten seconds elsewhere (log files, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from coordexp.config.redact import redact_text
from coordexp.types.progress import Progress

T = TypeVar("T")


def console_progress(stream: TextIO | None = None) -> Progress:
    """The progress that fits the stream (stderr by default, so that output can be piped)."""
    target = stream if stream is not None else sys.stderr
    return BarProgress(target) if target.isatty() else LineProgress(target)


class LineProgress:
    """Plain lines. Example: `rescale: 1200/5000, 240.0/s, 16 s left`

    The first line of a loop comes after `interval_s`, so short loops only say that they are done.
    """

    def __init__(self, stream: TextIO, *, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._clock = clock

    def track(self, items: Iterable[T], description: str, *, total: int | None = None, count: Callable[[T], int] | None = None) -> Iterator[T]:
        start = last = self._clock()
        done = 0
        for item in items:
            yield item
            done += 1 if count is None else count(item)
            now = self._clock()
            if now - last >= self._interval_s:
                last = now
                self.say(describe(description, done, total, now - start))
        self.say(f"{description}: {done} done in {spell_seconds(self._clock() - start)}")

    def say(self, sentence: str) -> None:
        self._stream.write(redact_text(sentence) + "\n")
        self._stream.flush()


class BarProgress:
    """A bar on a terminal; loops may nest, and sentences appear above the bars."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._console = Console(file=stream, highlight=False)
        self._bars = RichProgress(*columns, console=self._console, transient=True)
        self._open = 0

    def track(self, items: Iterable[T], description: str, *, total: int | None = None, count: Callable[[T], int] | None = None) -> Iterator[T]:
        start = time.monotonic()
        done = 0
        if self._open == 0:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(description, total=total, rate="")
        try:
            for item in items:
                yield item
                done += 1 if count is None else count(item)
                self._bars.update(task, completed=done, rate=f"{done / max(time.monotonic() - start, 1e-6):.1f}/s")
        finally:
            self._bars.remove_task(task)
            self._open -= 1
            if self._open == 0:
                self._bars.stop()
        self.say(f"{description}: {done} done in {spell_seconds(time.monotonic() - start)}")

    def say(self, sentence: str) -> None:
        self._console.print(redact_text(sentence), markup=False, soft_wrap=True)


def describe(description: str, done: int, total: int | None, seconds: float) -> str:
    """One line about a loop that is under way."""
    rate = done / max(seconds, 1e-6)
    count = f"{done}/{total}" if total is not None else f"{done}"
    left = f", {spell_seconds((total - done) / rate)} left" if total is not None and rate > 0 else ""
    return f"{description}: {count}, {rate:.1f}/s{left}"


def spell_seconds(seconds: float) -> str:
    """`0.4 s`, `16 s`, `3 min 20 s`, `2 h 05 min`"""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
