"""`coordexp data import`, `coord` and `validate` with two processes as real commands that are stopped in the middle: nothing half-written, no process left."""

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
from PIL import Image

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


def start(*command: str) -> tuple[subprocess.Popen[str], set[int]]:
    """The command with its two workers, one of which has a task."""
    arguments = [sys.executable, "-m", "coordexp", "data", *command, "--workers", "2"]
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
    process, _ = start(command, str(source))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    said, complained = process.communicate(timeout=120)
    assert (process.returncode, said, complained.splitlines()[-1]) == (130, "", "interrupted")
    assert "Traceback" not in complained
    wait_for(lambda: not group_of(process.pid))  # the one that keeps track of shared resources ends after the others
    assert [path.name for path in source.parent.iterdir()] == ["train.jsonl"]


def test_a_killed_conversion_leaves_no_output_and_no_process(source: Path) -> None:
    process, children = start("coord", str(source))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=120)
    wait_for(lambda: not any(map(is_running, children)))
    assert list(source.parent.glob("train.coord*")) == []
    for leftover in source.parent.glob(".train.coord*"):
        leftover.unlink()


def write_coco(path: Path, count: int) -> Path:
    """So many images, all of one file, with a box each."""
    rows = [{"id": place, "image_id": place, "category_id": 1, "bbox": [1, 2, 30, 4]} for place in range(count)]
    images = [{"id": place, "file_name": "0.png", "width": 64, "height": 48} for place in range(count)]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_import_that_is_stopped_leaves_no_record_file_and_the_next_one_is_whole(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "raw").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "raw/0.png")
    source = write_coco(tmp_path / "coco.json", 10_000)
    command = ["import", "coco", str(source), "--images", str(tmp_path / "raw"), "--output", str(tmp_path / "out/train.jsonl")]
    process, children = start(*command)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, complained = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in complained
    wait_for(lambda: not any(map(is_running, children)))
    assert not (tmp_path / "out/train.jsonl").exists()
    if number == signal.SIGINT:
        assert not (tmp_path / "out").exists()
        return
    write_coco(source, 20)
    subprocess.run([sys.executable, "-m", "coordexp", "data", *command], check=True, capture_output=True)
    assert len((tmp_path / "out/train.jsonl").read_text().splitlines()) == 20
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["train"]
