"""`coordexp train --dry-run` says what a run would do, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1_plan import plan_stage1

Stage1Maker = Callable[..., Loaded[TrainConfig]]
PACKED = ("training.packing=true", "training.eval_packing=true", "training.per_device_train_batch_size=1", "global_max_length=420")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.slow
def test_the_command_prints_the_plan_and_writes_nothing(make_stage1: Stage1Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_stage1()
    monkeypatch.setenv("COORDEXP_CACHE", str(tmp_path / "cache"))
    before = files(tmp_path)
    command = [sys.executable, "-m", "coordexp", "train", "--config", str(tmp_path / "stage1.yaml"), "--dry-run", *PACKED, "training.eval_strategy=epoch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == before
    for part in (
        "trainer: Stage-1",
        "M trained",
        "10 records",
        "tokens of a sample: ",
        "packing: ",
        "packing in evaluation: ",
        "4 steps = ",
        "memory of a device",
    ):
        assert part in done.stdout, part


@pytest.mark.slow
def test_a_wrong_setting_is_an_error_with_exit_code_2(make_stage1: Stage1Maker, tmp_path: Path) -> None:
    make_stage1()
    command = [sys.executable, "-m", "coordexp", "train", "--config", str(tmp_path / "stage1.yaml"), "--dry-run", "training.packin=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean training.packing?" in done.stderr


def test_the_numbers_are_those_of_the_run(make_stage1: Stage1Maker) -> None:
    plan = plan_stage1(make_stage1("tuner.freeze_vit=true", "training.eval_strategy=epoch", "training.warmup_steps=0.5").config, world_size=2)
    lines = plan.splitlines()
    assert next(line for line in lines if line.lstrip().startswith("vit")).endswith("0.000 M trained")
    assert "a step: 4 samples, in 1 forwards of 2 on each of 2 devices" in lines
    assert "4 steps = 1.33 epochs of 3 steps; 2 of them warm up to 0.001" in lines
    assert "evaluation: 5 forwards over all devices, by epoch" in lines


def test_a_mixture_and_an_adapter_are_described(make_stage1: Stage1Maker, boxes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fusion.yaml").write_text(f"datasets: [{{name: half, train_jsonl: {boxes_folder}/train.jsonl, ratio: 0.5, max_objects_per_image: 2}}]\n")
    mixed = (
        "custom.train_jsonl=null",
        f"custom.fusion_config={tmp_path}/fusion.yaml",
        "tuner.train_type=lora",
        "training.num_train_epochs=2",
        "training.max_steps=-1",
    )
    plan = plan_stage1(make_stage1(*mixed).config, world_size=1)
    assert "an epoch mixes 5 samples: half 5 of 10" in plan
    assert "half: 2 of 10 records hold more than 2 objects, of which 2 are drawn in each epoch" in plan
    assert "4 steps = 2.00 epochs of 2 steps" in plan
