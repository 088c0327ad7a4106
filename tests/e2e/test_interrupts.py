"""Commands that are killed or interrupted again and again, at moments that are drawn: what the last one leaves is what an undisturbed one leaves.

Nothing half-written stands where results are looked for, no process is left, and Ctrl-C ends with its exit code and without a traceback.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from coordexp.data.synthetic import SceneSettings, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint

from .forked import start
from .process_groups import descendants, is_running
from .scenes import write_scenes

pytestmark = pytest.mark.slow

Results = dict[str, bytes]
SIGNALS = {"killed": signal.SIGKILL, "interrupted": signal.SIGINT}


@dataclass(frozen=True)
class Case:
    """A command that writes into a folder, and what must not differ in there."""

    arguments: Callable[[Path, Path], list[str]]
    """(data, folder) → the command."""
    results: Callable[[Path], Results]
    again: Callable[[Path], list[str]] = lambda folder: []
    """More arguments of a start that goes on."""


def _files(folder: Path, *patterns: str) -> Results:
    return {str(path.relative_to(folder)): path.read_bytes() for pattern in patterns for path in sorted(folder.glob(pattern))}


def _final(folder: Path) -> Results:
    """Weights, and the log without clocks, of the only run."""
    finals = list(folder.glob("v*/r/final/model.safetensors"))
    return {"model": finals[0].read_bytes()} if finals else {}


def _resume(folder: Path) -> list[str]:
    return ["training.resume_from_checkpoint=true"] if any(folder.glob("v*/r/checkpoint-*/trainer_state.json")) else []


CASES = {
    "prepare": Case(
        lambda data, folder: ["data", "prepare", str(data / "prepare.yaml"), f"output={folder}"],
        lambda folder: _files(folder, "*/*.jsonl", "*/images/**/*.png"),
    ),
    "train": Case(lambda data, folder: ["train", "--config", str(data / "train.yaml"), f"training.output_dir={folder}"], _final, _resume),
    "infer": Case(
        lambda data, folder: ["infer", "--config", str(data / "infer.yaml"), "--out", str(folder / "gt_vs_pred.jsonl")],
        lambda folder: _files(folder, "gt_vs_pred.jsonl"),
    ),
    "eval": Case(
        lambda data, folder: ["eval", "--pred_jsonl", str(data / "gt_vs_pred.jsonl"), "--out_dir", str(folder), "--overlay", "--bootstrap", "200"],
        lambda folder: _files(folder, "*.json", "*.jsonl", "*.csv", "overlays/*.png"),
    ),
    "report": Case(
        lambda data, folder: ["report", str(data), "--output", str(folder / "report.html")],
        lambda folder: _files(folder, "report.html"),
    ),
    "doctor": Case(
        lambda data, folder: ["doctor", "data", str(data / "val.jsonl"), "--model", str(tiny_checkpoint()), "--output", str(folder / "doctor.html")],
        lambda folder: _files(folder, "doctor.html"),
    ),
}
TRIED = [(name, how) for name in CASES for how in SIGNALS if (name, how) not in {("infer", "killed"), ("report", "killed"), ("doctor", "killed")}]
"""Kills of inference have tests of their own; pages are one file, which is there whole or not at all."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    scenes = write_scenes(folder, count=40)
    write_coco_dataset(SceneSettings(name="train", kind="shapes", seed=1, num_scenes=24, min_objects=1, max_objects=4), folder / "coco")
    splits = {"train": {"instances": str(folder / "coco/instances_train.json"), "images": str(folder / "coco/images")}}
    (folder / "prepare.yaml").write_text(yaml.safe_dump({"preset": "rescale_32_64", "splits": splits, "filter": {"min_objects": 2, "duplicates": 1}}))
    training = {"output_dir": "-", "run_name": "r", "learning_rate": 1e-3, "max_steps": 8, "save_steps": 1, "save_total_limit": 2, "use_cpu": True}
    training |= {"per_device_train_batch_size": 2, "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 4}
    custom = {"train_jsonl": str(scenes), "val_jsonl": str(scenes), "train_sample_limit": 16, "val_sample_limit": 4}
    model = {"model": str(tiny_checkpoint()), "torch_dtype": "float32"}
    (folder / "train.yaml").write_text(yaml.safe_dump({"model": model, "training": training, "custom": custom}))
    infer = {"gt_jsonl": str(scenes), "model_checkpoint": str(tiny_checkpoint()), "mode": "coord", "device": "cpu", "generation": {"max_new_tokens": 64}}
    (folder / "infer.yaml").write_text(yaml.safe_dump({"run": {"name": "r", "output_dir": str(folder)}, "infer": infer}))
    lines = [json.loads(line) for line in scenes.read_text().splitlines()]
    (folder / "gt_vs_pred.jsonl").write_text("".join(json.dumps(_predicted(line)) + "\n" for line in lines))
    return folder


def _predicted(line: dict) -> dict:
    objects = [{"type": "bbox_2d", "points": [5, 5 + 9 * k, 40, 14 + 9 * k], "desc": item["desc"]} for k, item in enumerate(line["objects"])]
    pred = [{**item, "score": 0.9 - 0.1 * k} for k, item in enumerate(objects)][1:]
    return {"image": line["images"][0], "width": 96, "height": 96, "mode": "coord", "coord_mode": "pixel", "gt": objects, "pred": pred, "errors": []}


def _wait(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Results, float]]:
    """What a command leaves, and its seconds."""
    known: dict[str, tuple[Results, float]] = {}

    def run(name: str) -> tuple[Results, float]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name) / "out"
            folder.mkdir()
            begun = time.monotonic()
            process = start(*CASES[name].arguments(data, folder), said=folder.parent / "said")
            process.join()
            assert process.exitcode in (0, 3), (folder.parent / "said").read_text()
            known[name] = CASES[name].results(folder), time.monotonic() - begun
        return known[name]

    return run


@pytest.mark.parametrize(("name", "how"), TRIED, ids=[f"{name} {how}" for name, how in TRIED])
def test_a_command_that_is_ended_at_any_moment_leaves_nothing_half_and_goes_on(
    name: str, how: str, data: Path, undisturbed: Callable[[str], tuple[Results, float]], tmp_path: Path, long_count: Callable[[int, int], int]
) -> None:
    expected, seconds = undisturbed(name)
    assert expected
    case, folder, said = CASES[name], tmp_path / "out", tmp_path / "said"
    folder.mkdir()
    rng = random.Random(f"{name} {how}")
    for number in range(long_count(2, 40)):
        begun = tmp_path / f"begun{number}"
        process = start(*case.arguments(data, folder), *case.again(folder), said=said, begun=begun)
        _wait(begun.exists)
        process.join(rng.uniform(0.0, seconds))
        started = descendants(process.pid)
        if process.is_alive():
            os.kill(process.pid, SIGNALS[how])
        process.join()
        assert process.exitcode in (0, 3, *((-9,) if how == "killed" else (130,)))
        _wait(lambda: not any(map(is_running, started)))  # noqa: B023
        assert case.results(folder).items() <= expected.items()
        if how == "interrupted":
            assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", ".made"))]
    last = start(*case.arguments(data, folder), *case.again(folder), said=said)
    last.join()
    assert last.exitcode in (0, 3), said.read_text()
    assert case.results(folder) == expected
    assert "Traceback" not in said.read_text()
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", ".made", ".partial", ".journal"))]
