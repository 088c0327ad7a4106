"""Where actor and learner meet: one lock and one condition for everything that either waits for.

Policy clock, ready queue and actor change their state under this lock and wake all; whoever waits looks at what it waits for itself. A wait ends when that
has come, when its time is over, when the other side failed, or when everything is closed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, Protocol

from coordexp.types.errors import UserError

_SLICE_S: Final = 60.0
"""Longest single wait: nobody depends on a wake-up that was lost."""


class Timer(Protocol):
    """Time, as a meeting sees it; tests and simulations hand in their own."""

    def now(self) -> float:
        """Seconds, from any start."""
        ...

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        """Give the lock of `condition` away until somebody notifies it, for at most so long."""
        ...


class SystemTimer:
    """The clock of the machine."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        condition.wait(timeout_s)


class ClosedError(Exception):
    """The run ends: raised by every wait, and by every wait that begins afterwards. No mistake; whoever runs a thread ends it."""


class WaitTimeoutError(UserError):
    """Something did not come in time; says what."""


class Meeting:
    """Shared by two threads. Every method may be called by both, also while holding the lock.

    Example:
        meeting = Meeting()
        with meeting.changing():
            jobs.append(1)                                                # wakes the other side
        meeting.wait_for(lambda: not jobs, what="an empty list", timeout_s=10)
    """

    def __init__(self, timer: Timer | None = None) -> None:
        self.timer: Timer = timer or SystemTimer()
        self._condition = threading.Condition()
        self._is_closed = False
        self._failure: BaseException | None = None

    @property
    def lock(self) -> threading.Condition:
        """For a block that looks, or that calls `wake` where it changes something."""
        return self._condition

    @contextmanager
    def changing(self) -> Generator[None]:
        """A block under the lock that changes something; all who wait look again when it ends."""
        with self._condition:
            try:
                yield
            finally:
                self._condition.notify_all()

    def wake(self) -> None:
        """Make all who wait look again; under the lock. What only looks must not call it: two who wait would wake each other for ever."""
        self._condition.notify_all()

    @property
    def failure(self) -> BaseException | None:
        """What ended the other side; None: it works."""
        return self._failure

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def fail(self, error: BaseException) -> None:
        """Store what ended a side; every wait of the other one raises it. The first failure stays."""
        with self.changing():
            self._failure = self._failure or error

    def close(self) -> None:
        """End every wait, for good. Twice is harmless."""
        with self.changing():
            self._is_closed = True

    def check(self) -> None:
        """Raise what a wait would raise at once.

        Raises:
            ClosedError: everything was closed.
            BaseException: what the other side failed with.
        """
        if self._failure is not None:
            raise self._failure
        if self._is_closed:
            raise ClosedError("closed")

    def wait_for(self, is_there: Callable[[], bool], *, what: str | Callable[[], str], timeout_s: float) -> None:
        """Wait until `is_there()`, which is called under the lock.

        Args:
            is_there: looks at state that is changed inside `changing()` only.
            what: named when it does not come; a function is called then.
            timeout_s: seconds.

        Raises:
            WaitTimeoutError: it did not come in time.
            ClosedError: everything was closed.
            BaseException: what the other side failed with.
        """
        if not self.wait_up_to(is_there, timeout_s=timeout_s):
            raise WaitTimeoutError(f"waited {timeout_s:g} s for {what if isinstance(what, str) else what()}")

    def wait_up_to(self, is_there: Callable[[], bool], *, timeout_s: float, raises_failure: bool = True) -> bool:
        """`wait_for` that returns whether it came; without `raises_failure` a failure of the other side counts as that.

        Raises:
            ClosedError: everything was closed.
            BaseException: what the other side failed with.
        """
        with self._condition:
            end = self.timer.now() + timeout_s
            while True:
                if self._failure is not None and not raises_failure:
                    return True
                self.check()
                if is_there():
                    return True
                left = end - self.timer.now()
                if left <= 0:
                    return False
                self.timer.wait(self._condition, min(left, _SLICE_S))
