"""Processes that are started together end together, whatever ends the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coordexp.types.errors import BackendError, OutputError
from coordexp.types.processes import Children

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
print("ready", inner.pid, flush=True)
time.sleep(600)
"""
PARENT = """
import sys, time
from pathlib import Path
from coordexp.types.processes import Children
with Children() as children:
    child = children.start("child", [sys.executable, "-c", {child!r}], log=Path({log!r}))
    while "ready" not in child.last_words(): time.sleep(0.02)
    print(child.pid, child.last_words().split()[1], flush=True)
    time.sleep(600)
"""


def wait_for(condition: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_leaving_the_block_kills_a_stubborn_process_and_what_it_started(tmp_path: Path) -> None:
    with Children() as children:
        child = children.start("stubborn", [sys.executable, "-c", STUBBORN], log=tmp_path / "log" / "child.log")
        wait_for(lambda: "ready" in child.last_words())
        inner = int(child.last_words().split()[1])
        assert runs(child.pid)
        assert runs(inner)
        child.end(grace_s=0.1)
        assert child.exit_code == -signal.SIGKILL
        wait_for(lambda: not runs(inner))
    assert not runs(child.pid)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, None)])
def test_a_signal_to_the_parent_ends_all_of_them(tmp_path: Path, number: signal.Signals, code: int | None) -> None:
    script = PARENT.format(child=STUBBORN, log=str(tmp_path / "log"))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(text) for text in parent.stdout.readline().split()]
        assert all(map(runs, pids))
        parent.send_signal(number)
        parent.wait(timeout=60)
    wait_for(lambda: not any(map(runs, pids)))
    assert code is None or parent.returncode == code


def test_the_kernel_ends_a_child_whose_parent_was_killed_outright(tmp_path: Path) -> None:
    gentle = "import time; print('ready 0', flush=True); time.sleep(600)"
    script = PARENT.format(child=gentle, log=str(tmp_path / "log"))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline().split()[0])
        assert runs(child)
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not runs(child))


def test_a_program_that_is_not_there_and_a_log_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Children() as children:
        with pytest.raises(BackendError, match="server: cannot start no-such-program: no such program"):
            children.start("server", ["no-such-program"])
        with pytest.raises(OutputError):
            children.start("server", [sys.executable], log=tmp_path / "file" / "log")


def test_a_child_has_the_variables_that_it_was_given(tmp_path: Path) -> None:
    with Children() as children:
        child = children.start(
            "child", [sys.executable, "-c", "import os; print(os.environ['A'], os.environ['PATH'])"], env={**os.environ, "A": "1"}, log=tmp_path / "log"
        )
        wait_for(lambda: child.exit_code is not None)
        assert child.exit_code == 0
        assert child.last_words() == f"1 {os.environ['PATH']}"
