from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from torch import nn
from transformers import TrainingArguments

from coordexp.batching.collate import PackBatch
from coordexp.losses.rows import OutputHead
from coordexp.recipes.stage1 import build_trainer
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.training.objective import PackLoss
from coordexp.training.trainer import StepTrainer
from coordexp.types.errors import UserError
from coordexp.types.progress import NoProgress

torch.set_num_threads(1)


def make_trainer(make_stage1, folder: Path, *overrides: str) -> tuple[StepTrainer, tuple[PackBatch, ...]]:
    """The trainer and the packs of its first step."""
    config = make_stage1(*overrides).config
    trainer, loader = build_trainer(config, prepare_stage1(config), folder=folder, progress=NoProgress(), process=PartialState(cpu=True))
    packs = loader.prepare(0)
    loader.close()
    return trainer, packs


def gradients(trainer: StepTrainer, packs: tuple[PackBatch, ...]) -> tuple[float, list[torch.Tensor]]:
    model = trainer.model
    assert model is not None
    model.zero_grad()
    loss = trainer.training_step(model, packs).item()
    return loss, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("per_device", [1, 2])
def test_loss_and_gradient_do_not_depend_on_how_samples_share_forwards(make_stage1, tmp_path: Path, per_device: int) -> None:
    together, one = make_trainer(make_stage1, tmp_path, "training.per_device_train_batch_size=4")
    apart, many = make_trainer(make_stage1, tmp_path, f"training.per_device_train_batch_size={per_device}")
    assert (len(one), len(many)) == (1, 4 // per_device)
    loss, gradient = gradients(together, one)
    split_loss, split_gradient = gradients(apart, many)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for whole, part in zip(gradient, split_gradient, strict=True):
        assert (whole - part).norm() <= 1e-4 * whole.norm() + 1e-7


def test_a_filler_pack_changes_neither_loss_nor_gradient(make_stage1, tmp_path: Path) -> None:
    trainer, packs = make_trainer(make_stage1, tmp_path)
    nothing = {name: getattr(packs[0].supervision, name) * 0 for name in ("text_weight", "coord_weight")}
    filler = replace(packs[0], supervision=replace(packs[0].supervision, **nothing), is_filler=True)
    loss, gradient = gradients(trainer, packs)
    filled_loss, filled_gradient = gradients(trainer, (*packs, filler))
    assert filled_loss == loss
    assert all(torch.equal(a, b) for a, b in zip(gradient, filled_gradient, strict=True))


def test_memory_and_checkpoints_hold_the_latest_entries_of_the_log(make_stage1, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordexp.training.trainer._MAX_HISTORY", 3)
    trainer, _ = make_trainer(make_stage1, tmp_path)
    for step in range(5):
        trainer.state.global_step = step
        trainer.log({"learning_rate": 0.5})
    assert [entry["step"] for entry in trainer.state.log_history] == [2, 3, 4]


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(make_stage1, tmp_path: Path) -> None:
    trainer, packs = make_trainer(make_stage1, tmp_path)
    assert trainer.model is not None
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(UserError, match=r"the loss of step 1 is nan \(samples train:"):
        trainer.training_step(trainer.model, packs)


def test_evaluation_of_the_training_samples_equals_the_training_loss(make_stage1, tmp_path: Path) -> None:
    trainer, packs = make_trainer(make_stage1, tmp_path, "training.eval_strategy=steps", "training.eval_steps=1")
    loss, _ = gradients(trainer, packs)
    trainer._eval_packs = packs
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)


class _Constant:
    def denominators(self, supervision: object) -> torch.Tensor:
        return torch.ones(1)

    def __call__(self, hidden: torch.Tensor, head: OutputHead, batch: PackBatch, *, denominators: torch.Tensor | None = None) -> PackLoss:
        return PackLoss(sums=head.logits(hidden).sum().reshape(1), metrics={})


def test_accumulation_by_the_engine_is_refused(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), gradient_accumulation_steps=2, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="must be 1"):
        StepTrainer(model=nn.Linear(1, 1), args=arguments, objective=_Constant(), write_model=lambda path, state: None)
