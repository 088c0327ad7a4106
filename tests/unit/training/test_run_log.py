from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest

from coordexp.metrics.specs import UnknownMetricError
from coordexp.training.run_log import RunLog


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_each_event_is_one_line(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "logging.jsonl")
    log.write({"loss": 2.5}, step=1)
    log.write({"eval_loss": 2.25, "epoch": 0.5}, step=1)
    lines = [json.loads(line) for line in (tmp_path / "logging.jsonl").read_text().splitlines()]
    assert [(line["mode"], line["schema_version"]) for line in lines] == [("train", 1), ("eval", 1)]
    assert lines[1]["eval_loss"] == 2.25


def test_an_unregistered_key_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UnknownMetricError):
        RunLog(tmp_path / "logging.jsonl").write({"loss": 1.0, "made_up": 1.0}, step=1)
    assert not (tmp_path / "logging.jsonl").exists()


def test_a_value_that_is_not_finite_is_left_out_and_told_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "logging.jsonl")
    with pytest.warns(UserWarning, match="'grad_norm' is inf"):
        log.write({"loss": 1.0, "grad_norm": math.inf}, step=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.write({"loss": 1.0, "grad_norm": math.inf}, step=2)
    assert "grad_norm" not in (tmp_path / "logging.jsonl").read_text()


def test_rewinding_drops_later_events_and_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "logging.jsonl"
    log = RunLog(path)
    for step in (1, 2, 3):
        log.write({"loss": 1.0}, step=step)
    log.write({"train_runtime": 3.0}, step=2)
    with path.open("a") as stream:
        stream.write('{"schema_version": 1, "mo')
    log.rewind(2)
    log.write({"loss": 1.0}, step=3)
    assert steps_in(path) == [1, 2, 3]
