"""`coordexp data coord` and `validate` with two processes as real commands that are stopped in the middle: nothing half-written, no process left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .process_groups import descendants, group_of, is_running

pytestmark = pytest.mark.slow

ROW = {"images": ["a.png"], "objects": [{"desc": "cat", "bbox_2d": [1, 2, 30.5, 4]}] * 7, "width": 64, "height": 48, "coord_space": "pixel"}
NUM_RECORDS = 100_000
"""Seconds of work."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "train.jsonl"
    path.write_bytes((json.dumps(ROW) + "\n").encode() * NUM_RECORDS)
    return path


def start(command: str, source: Path) -> tuple[subprocess.Popen[str], set[int]]:
    """The command with its two workers, one of which has a task."""
    arguments = [sys.executable, "-m", "coordexp", "data", command, str(source), "--workers", "2"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(descendants(process.pid)) >= 3, process)  # and the one that keeps track of shared resources
    return process, descendants(process.pid)


def wait_for(is_done: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not is_done():
        assert process is None or process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("command", ["coord", "validate"])
def test_ctrl_c_ends_the_command_and_its_workers_with_one_word(source: Path, command: str) -> None:
    process, _ = start(command, source)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    said, complained = process.communicate(timeout=120)
    assert (process.returncode, said, complained.splitlines()[-1]) == (130, "", "interrupted")
    assert "Traceback" not in complained
    wait_for(lambda: not group_of(process.pid))  # the one that keeps track of shared resources ends after the others
    assert [path.name for path in source.parent.iterdir()] == ["train.jsonl"]


def test_a_killed_conversion_leaves_no_output_and_no_process(source: Path) -> None:
    process, children = start("coord", source)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    wait_for(lambda: not any(map(is_running, children)))
    assert list(source.parent.glob("train.coord*")) == []
    for leftover in source.parent.glob(".train.coord*"):
        leftover.unlink()
