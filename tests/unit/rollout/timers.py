"""Clocks for tests: none of them sleeps."""

from __future__ import annotations

import threading


class JumpingTimer:
    """Time passes only in waits, and a wait takes its whole time at once: nobody wakes anybody."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        self.seconds += timeout_s


class WatchedTimer:
    """Time stands still; a wait ends when it is woken, and a test can wait until somebody waits."""

    def __init__(self) -> None:
        self._waiting = threading.Semaphore(0)

    def now(self) -> float:
        return 0.0

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        self._waiting.release()
        condition.wait(30)

    def until_somebody_waits(self) -> None:
        assert self._waiting.acquire(timeout=30), "nobody waits"
