"""`loss_impl: lean` is `plain` through whole steps of training, for every part that may be trained, on one process and on two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1 import build_trainer, run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.types.progress import NoProgress

Stage1Maker = Callable[..., Loaded[TrainConfig]]

torch.set_num_threads(1)

UNTIED = "untied"
PARTS = {
    "all": (),
    "pure cross-entropy": ("custom.coord_soft_ce_w1.enabled=false",),
    "no gate": ("custom.coord_soft_ce_w1.gate_weight=0",),
    "temperature": ("custom.coord_soft_ce_w1.temperature=1.5",),
    "frozen language model": ("tuner.freeze_llm=true",),
    "lora": ("tuner.train_type=lora",),
    "lora on the head": ("tuner.train_type=lora", "tuner.target_modules=[lm_head,q_proj]"),
    "dora on the head": ("tuner.train_type=lora", "tuner.use_dora=true", "tuner.target_modules=[lm_head,q_proj]"),
    "coordinate rows": ("custom.coord_offset.enabled=true",),
    "untied": (UNTIED,),
    "untied, lora on the head": (UNTIED, "tuner.train_type=lora", "tuner.target_modules=[lm_head,q_proj]"),
    "untied, two tables of coordinate rows": (UNTIED, "custom.coord_offset.enabled=true", "custom.coord_offset.tie_head=false"),
    "bfloat16 autocast": ("training.bf16=true",),
}


def step(make_stage1: Stage1Maker, folder: Path, *overrides: str) -> tuple[float, dict[str, torch.Tensor], dict[str, float]]:
    """Loss, gradients by name and logged metrics of the first optimizer step, of two packs."""
    config = make_stage1(*overrides).config
    trainer, loader = build_trainer(config, prepare_stage1(config), folder=folder, progress=NoProgress(), process=PartialState(cpu=True))
    packs = loader.prepare(0)
    loader.close()
    assert len(packs) == 2
    model = trainer.model
    assert model is not None
    torch.manual_seed(0)
    loss = trainer.training_step(model, packs).item()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss, gradients, trainer._fold.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.filterwarnings("error:this output head")
def test_a_step_has_the_same_loss_gradients_and_metrics(make_stage1: Stage1Maker, untied_folder: Path, tmp_path: Path, name: str) -> None:
    settings = [f"model.model={untied_folder}" if setting == UNTIED else setting for setting in PARTS[name]]
    plain, lean = (step(make_stage1, tmp_path, *settings, f"custom.loss_impl={impl}") for impl in ("plain", "lean"))
    tolerance = 2e-2 if "bfloat16" in name else 1e-5
    assert lean[0] == pytest.approx(plain[0], rel=tolerance)
    assert lean[1].keys() == plain[1].keys()
    for key, gradient in plain[1].items():
        assert (lean[1][key] - gradient).norm() <= tolerance * gradient.norm() + 1e-9, key
    assert lean[2] == pytest.approx(plain[2], rel=tolerance, abs=1e-6 if tolerance < 1e-4 else 0.05)


@pytest.mark.slow
def test_two_processes_equal_one(make_stage1: Stage1Maker, tmp_path: Path) -> None:
    """A step of 3 samples: two packs on one rank, one and a filler on the other."""
    settings = ("training.effective_batch_size=3", "training.per_device_train_batch_size=1", "training.max_steps=2", "training.max_grad_norm=0")
    one = run_stage1(make_stage1(*settings))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "coordexp", "train"]
    more = [f"training.output_dir={tmp_path}/two", *settings]
    done = subprocess.run([*command, "--config", str(tmp_path / "stage1.yaml"), *more], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    (two,) = (tmp_path / "two").glob("v0-*/boxes")
    logs = [[json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [line["loss"] for line in logs[1] if "loss" in line] == pytest.approx([line["loss"] for line in logs[0] if "loss" in line], rel=1e-6)
    weights = [load_file(run / "final" / "model.safetensors") for run in (one, two)]
    for name, weight in weights[0].items():
        assert (weights[1][name] - weight).abs().max() < 1e-5, name
