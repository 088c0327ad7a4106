"""Processes that one command starts and that never outlive it: each leads a process group of its own, which is ended as a whole."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from coordexp.types.errors import BackendError
from coordexp.types.files import translate_os_errors

_GRACE_S: Final = 4.0
"""For a group that was asked to end; then it is killed. Two groups one after the other stay below ten seconds."""
_POLL_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


class Child:
    """One process with everything that it starts."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path | None) -> None:
        self.name, self.log = name, log
        self._process = process

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Also the number of its group."""
        return self._process.pid

    def last_words(self, num_lines: int = 15) -> str:
        """End of its log; empty without one."""
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])

    def wait(self) -> int:
        """Until it ends by itself; its exit code."""
        return self._process.wait()

    def end(self, *, first: signal.Signals = signal.SIGTERM, grace_s: float = _GRACE_S) -> None:
        """Ask the group to end, and kill what is left of it. Returns when nothing of it runs."""
        if self._send(first):
            deadline = time.monotonic() + grace_s
            while self._is_there() and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            self._send(signal.SIGKILL)
        self._process.wait()

    def _send(self, number: signal.Signals) -> bool:
        """False: there is no such group any more."""
        self._process.poll()  # a leader that has ended and was not waited for would keep its group alive
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _is_there(self) -> bool:
        self._process.poll()
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Children:
    """Ends all of them when the block is left: by its end, an error, Ctrl-C, SIGTERM or SIGHUP.

    When this process is killed outright, the kernel asks each to end.

    Example:
        with Children() as children:
            server = children.start("server", ["python", "-m", "http.server"], log=Path("server.log"))
            ...
    """

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._stack = signals_as_exit()

    def __enter__(self) -> Children:
        self._stack.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            for child in reversed(self._children):  # who uses a server ends before it
                child.end(first=signal.SIGINT if kind is KeyboardInterrupt else signal.SIGTERM)
        finally:
            self._stack.__exit__(kind, error, trace)

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None) -> Child:
        """`start_process`, ended with the block."""
        child = start_process(name, command, env=env, log=log)
        self._children.append(child)
        return child


def start_process(name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None, log: Path | None = None) -> Child:
    """Start a process that the caller ends.

    Args:
        name: in messages.
        command: program and arguments.
        env: all its variables; None: ours.
        log: what it says is appended here; None: our own output.

    Raises:
        BackendError: the program is not there.
        OutputError: the log cannot be written.
    """
    try:
        return Child(name, _popen(command, env, log), log)
    except FileNotFoundError as error:
        raise BackendError(f"cannot start {command[0]}: no such program", where=name) from error


def _popen(command: Sequence[str], env: Mapping[str, str] | None, log: Path | None) -> subprocess.Popen[bytes]:
    if log is None:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent)
    with translate_os_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("ab")
    with stream:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_parent, stdout=stream, stderr=subprocess.STDOUT
        )


_LIBC: Final = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """Runs in the child: SIGTERM when the thread that started it is gone. Linux alone has this; elsewhere a kill -9 of this process leaves children."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def signals_as_exit() -> Generator[None]:
    """SIGTERM and SIGHUP leave blocks in order, as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
