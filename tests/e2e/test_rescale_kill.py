"""`coordexp data rescale` as a real command that is killed with SIGKILL in the middle: its processes go with it, and the next run finishes its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.data.jsonl import write_records
from coordexp.data.presets import parse_preset
from coordexp.data.rescale import rescale_dataset
from coordexp.types.records import DetObject, Record

from .process_groups import descendants, is_running

pytestmark = pytest.mark.slow

PRESET, NUM_IMAGES, SIZE = "rescale_32_64", 80, (640, 480)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    box = DetObject("cat", "bbox_2d", (3.5, 10, 600, 470))
    records: list[Record] = []
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(SIZE).save(folder / f"{number:03d}.jpg")
        records.append(Record("", f"{number:03d}.jpg", *SIZE, (box,), "pixel"))
    write_records(folder / "train.jsonl", records)
    return folder / "train.jsonl"


def command(source: Path, into: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "coordexp", "data", "rescale", str(source), "--into", str(into), "--preset", PRESET, "--workers", str(workers)]


def wait_for(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_rescale_goes_on_and_equals_an_uninterrupted_one(source: Path, tmp_path: Path, workers: int) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed" / PRESET
    rescale_dataset(source, whole / "train.jsonl", preset=parse_preset(PRESET))
    process = subprocess.Popen(command(source, tmp_path / "killed", workers), stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(folder.rglob("*.png"))) >= 10)
    children = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(children) >= (workers if workers > 1 else 0)
    wait_for(lambda: not any(map(is_running, children)))
    num_done = len(list(folder.rglob("*.png")))
    assert 10 <= num_done < NUM_IMAGES
    assert not (folder / "train.jsonl").exists()
    (folder / "images" / "train" / ".000.half.part").write_bytes(b"half of an image")
    done = subprocess.run(command(source, tmp_path / "killed", workers), capture_output=True, text=True, check=True)
    assert done.stdout.endswith(f"{NUM_IMAGES} images, {NUM_IMAGES} objects, {NUM_IMAGES} images changed size, {num_done} were up to date\n")
    assert contents(folder) == contents(whole)
    assert os.listdir(tmp_path / "killed") == [PRESET]


def contents(folder: Path) -> dict[str, bytes]:
    """But for the card, which names the command."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"}
