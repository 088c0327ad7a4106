"""The clock of the machine is set back while commands run: no duration is negative, run folders stay apart and in order, and what is begun goes on."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from coordexp.cli.main import main
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_folder import create_run_folder, find_resume_checkpoint

DURATIONS = ("runtime", "seconds", "_s", "per_second", "_per_s")


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock sees an hour less than the one before."""
    start, hours = time.time(), itertools.count()
    monkeypatch.setattr(time, "time", lambda: start - 3600.0 * next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: int((start - 3600.0 * next(hours)) * 1e9))


def _durations(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _durations(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _durations(inner, name)
    elif isinstance(value, int | float) and not isinstance(value, bool) and name.endswith(DURATIONS):
        yield name, value


@pytest.mark.usefixtures("backwards")
def test_a_training_logs_no_negative_duration_and_can_be_resumed(make_stage1: Any) -> None:
    run = run_stage1(make_stage1("training.max_steps=2", "training.save_steps=1", "training.eval_strategy=steps", "training.eval_steps=1"))
    assert run_stage1(make_stage1("training.max_steps=3", "training.save_steps=1", "training.resume_from_checkpoint=true")) == run
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    found = list(_durations([*lines, json.loads((run / "run_summary.json").read_text())]))
    assert {name for name, _ in found} >= {"train_runtime", "eval_runtime", "train_steps_per_second"}
    assert [(name, value) for name, value in found if value < 0] == []
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]


@pytest.mark.usefixtures("backwards")
def test_the_clock_goes_back() -> None:
    assert time.time() - time.time() > 3000


@pytest.mark.usefixtures("backwards")
def test_an_inference_tells_no_negative_duration(scenes_jsonl: Path, tmp_path: Path) -> None:
    out = tmp_path / "run/gt_vs_pred.jsonl"
    files = ["--gt_jsonl", str(scenes_jsonl), "--model_checkpoint", str(tiny_checkpoint()), "--device", "cpu", "--out", str(out)]
    assert main(["infer", *files, "--mode", "coord", "--max_new_tokens", "32"]) == 0
    found = list(_durations(json.loads((out.parent / "summary.json").read_text())))
    assert found
    assert min(value for _, value in found) >= 0


def test_run_folders_are_counted_whatever_their_date(tmp_path: Path) -> None:
    dates = [datetime(2031, 5, 1), datetime(2020, 1, 1), datetime(2020, 1, 1), datetime(1999, 12, 31)]
    folders = [create_run_folder(tmp_path, "r", now=now) for now in dates]
    assert [folder.parent.name for folder in folders] == ["v0-20310501-000000", "v1-20200101-000000", "v2-20200101-000000", "v3-19991231-000000"]
    for folder in folders:
        checkpoint = folder / "checkpoint-1"
        checkpoint.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "model.safetensors", "rng_state.pth"):
            (checkpoint / name).touch()
        (checkpoint / "trainer_state.json").write_text("{}")
    assert find_resume_checkpoint(tmp_path, "r") == folders[-1] / "checkpoint-1"
