"""Images that cannot be read, in the middle of training and evaluation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1 import run_stage1
from coordexp.types.errors import DataError

Stage1Maker = Callable[..., Loaded[TrainConfig]]
SKIP = "data.on_error=skip"
PACKED = ("training.packing=true", "training.per_device_train_batch_size=1", "training.effective_batch_size=2", "global_max_length=420")

torch.set_num_threads(1)


class Listener:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def track(self, items: Any, description: str, *, total: int | None = None, count: Any = None) -> Any:
        return iter(items)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def make_poisoned(make_stage1: Stage1Maker, boxes_folder: Path, tmp_path: Path) -> Callable[..., Loaded[TrainConfig]]:
    """Records train:4 and val:2 have half an image: the header is whole, so only decoding finds it."""
    folder = shutil.copytree(boxes_folder, tmp_path / "poisoned")
    for name in ("train3", "val1"):
        image = folder / "images" / f"{name}.png"
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return lambda *overrides: make_stage1(f"custom.train_jsonl={folder}/train.jsonl", f"custom.val_jsonl={folder}/val.jsonl", *overrides)


def skipped(run: Path, key: str) -> list[float]:
    return [line[key] for line in map(json.loads, (run / "logging.jsonl").read_text().splitlines()) if key in line]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in map(json.loads, (run / "logging.jsonl").read_text().splitlines()) if "loss" in line]


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "run_summary.json").read_text())


@pytest.mark.slow
def test_a_corrupt_image_in_the_middle_of_an_epoch_is_one_error_that_names_the_record(make_poisoned: Stage1Maker, tmp_path: Path) -> None:
    make_poisoned()
    command = [sys.executable, "-m", "coordexp", "train", "--config", str(tmp_path / "stage1.yaml"), f"custom.train_jsonl={tmp_path}/poisoned/train.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "train:4: the image" in done.stderr
    assert "train3.png cannot be decoded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("packing", [(), PACKED], ids=["padded", "packed"])
def test_with_skip_it_is_left_out_counted_and_named(make_poisoned: Stage1Maker, packing: tuple[str, ...]) -> None:
    progress = Listener()
    run = run_stage1(make_poisoned(SKIP, "training.num_train_epochs=2", "training.max_steps=-1", *packing), progress=progress)
    per_step = skipped(run, "data/skipped_samples")
    assert sum(per_step) == 2
    assert max(per_step) == 1
    (record,) = summary(run)["skipped"]["records"]
    assert (record["id"], record["times"], summary(run)["skipped"]["samples"]) == ("train:4", 2, 2)
    assert "train3.png cannot be decoded" in record["reason"]
    assert any("2 samples of 1 record were skipped, first train:4" in sentence for sentence in progress.said)


@pytest.mark.slow
def test_evaluation_and_detection_leave_it_out_too(make_poisoned: Stage1Maker, boxes_folder: Path) -> None:
    detection = ("custom.eval_detection.enabled=true", "custom.eval_detection.limit=0", "custom.eval_detection.max_new_tokens=8")
    clean = f"custom.train_jsonl={boxes_folder}/train.jsonl"
    run = run_stage1(make_poisoned(SKIP, clean, "training.max_steps=1", "training.eval_strategy=epoch", "training.save_strategy=no", *detection))
    assert skipped(run, "eval_data/skipped_samples") == [1]
    assert skipped(run, "eval_det_images") == [4]
    assert [record["id"] for record in summary(run)["skipped"]["records"]] == ["val:2"]


@pytest.mark.slow
def test_a_missing_image_is_told_at_the_start_and_left_out(make_poisoned: Stage1Maker, tmp_path: Path) -> None:
    (tmp_path / "poisoned" / "images" / "train3.png").unlink()
    with pytest.raises(DataError, match=r"^train:4: the image .* does not exist"):
        run_stage1(make_poisoned())
    progress = Listener()
    run = run_stage1(make_poisoned(SKIP, "training.num_train_epochs=1", "training.max_steps=-1"), progress=progress)
    assert any(sentence.startswith("warning: 1 of 10 records of the training data will be skipped, first train:4") for sentence in progress.said)
    assert sum(skipped(run, "data/skipped_samples")) == 1


@pytest.mark.slow
def test_two_processes_skip_what_one_skips(make_poisoned: Stage1Maker, tmp_path: Path, train_with_two_processes: Callable[..., Path]) -> None:
    settings = [SKIP, "training.max_steps=3", "training.save_strategy=no", "training.per_device_train_batch_size=1", "training.effective_batch_size=4"]
    alone = run_stage1(make_poisoned(*settings))
    both = train_with_two_processes(tmp_path / "stage1.yaml", *settings, f"custom.train_jsonl={tmp_path}/poisoned/train.jsonl")
    assert losses(both) == pytest.approx(losses(alone), rel=1e-5)
    assert skipped(both, "data/skipped_samples") == skipped(alone, "data/skipped_samples")
    assert summary(both)["skipped"] == summary(alone)["skipped"]


@pytest.mark.slow
def test_a_data_set_without_any_readable_image_is_an_error_even_then(make_poisoned: Stage1Maker, tmp_path: Path) -> None:
    for image in (tmp_path / "poisoned" / "images").glob("train*.png"):
        image.unlink()
    with pytest.raises(DataError, match=r"train:1: the image .* does not exist"):
        run_stage1(make_poisoned(SKIP))


@pytest.mark.slow
def test_a_run_without_trouble_says_so_in_its_summary(make_stage1: Stage1Maker) -> None:
    run = run_stage1(make_stage1("training.max_steps=2"))
    found = summary(run)
    assert (found["steps"], found["planned_steps"], found["first_step"], found["has_stopped_early"], found["final"]) == (2, 2, 0, False, "final")
    assert found["skipped"] == {"samples": 0, "records": []}
    assert skipped(run, "data/skipped_samples") == [0, 0]


@pytest.mark.slow
def test_a_step_of_rollouts_none_of_whose_samples_can_be_read_is_one_of_weight_0(make_ab: Stage1Maker, scenes_jsonl: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scenes_jsonl.parent, tmp_path / "scenes")
    records = [json.loads(line) for line in scenes_jsonl.read_text().splitlines()]
    for record in records[1:]:
        image = folder / record["images"][0]
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    alone = ("training.per_device_train_batch_size=1", "training.effective_batch_size=1", f"training.max_steps={len(records)}")
    run = run_stage1(make_ab(f"custom.train_jsonl={folder}/{scenes_jsonl.name}", SKIP, "stage2_ab.schedule.b_ratio=1.0", *alone))
    assert sum(skipped(run, "data/skipped_samples")) == len(records) - 1
    assert sum(loss > 0 for loss in losses(run)) == 1
    assert losses(run).count(0.0) == len(records) - 1
