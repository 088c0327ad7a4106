"""Settings of the training engine, seen at work in short runs of the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_folder import list_checkpoints
from coordexp.types.errors import UserError

Stage1Maker = Callable[..., Loaded[TrainConfig]]
ONCE = ("training.max_steps=1", "training.warmup_steps=0", "training.lr_scheduler_type=constant")
EVALUATED = ("training.eval_strategy=steps", "training.eval_steps=1", "training.save_steps=1")
DESTROYING = ("training.learning_rate=0.5", "training.warmup_steps=1", "training.lr_scheduler_type=constant", "custom.val_sample_limit=2")
"""The first step of this warm-up changes nothing, every later one makes the model worse than it was."""

torch.set_num_threads(1)


def events(run: Path, mode: str = "train") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [line for line in lines if line["mode"] == mode and "train_runtime" not in line]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return torch.sqrt(sum(((first[name] - second[name]).double() ** 2).sum() for name in first)).item()  # type: ignore[arg-type]


def names(run: Path) -> list[str]:
    return [path.name for path in list_checkpoints(run)]


@pytest.mark.slow
def test_gradient_checkpointing_changes_neither_loss_nor_gradients(make_stage1: Stage1Maker) -> None:
    plain, recomputed = (run_stage1(make_stage1("training.max_steps=2", f"training.gradient_checkpointing={switch}")) for switch in ("false", "true"))
    for first, second in zip(events(plain), events(recomputed), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-6)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-5)
    assert distance(weights(plain / "final"), weights(recomputed / "final")) < 1e-4


@pytest.mark.slow
def test_bfloat16_is_close_to_float32(make_stage1: Stage1Maker) -> None:
    """Mixed precision keeps float32 weights; weights in bfloat16 are written as such, and a warning says what is lost."""
    exact, mixed, halves = (run_stage1(make_stage1(*ONCE, *more)) for more in ((), ("training.bf16=true",), ("model.torch_dtype=bfloat16",)))
    losses = [events(run)[0]["loss"] for run in (exact, mixed, halves)]
    assert losses[1:] == [pytest.approx(losses[0], rel=0.02)] * 2
    assert losses[0] not in losses[1:]
    assert {tensor.dtype for tensor in weights(mixed / "final").values()} == {torch.float32}
    assert {tensor.dtype for tensor in weights(halves / "final").values()} == {torch.bfloat16}


@pytest.mark.slow
def test_dtype_auto_takes_the_format_of_the_checkpoint(make_stage1: Stage1Maker) -> None:
    halves = run_stage1(make_stage1(*ONCE, "model.torch_dtype=bfloat16")) / "final"
    assert load_model(halves, dtype="auto").model.dtype == torch.bfloat16
    again = run_stage1(make_stage1(*ONCE, f"model.model={halves}", "model.torch_dtype=auto"))
    assert {tensor.dtype for tensor in weights(again / "final").values()} == {torch.bfloat16}


@pytest.mark.slow
def test_the_learning_rate_warms_up_and_falls_to_its_minimum(make_stage1: Stage1Maker) -> None:
    schedule = ("training.lr_scheduler_type=cosine_with_min_lr", "training.lr_scheduler_kwargs={min_lr_rate: 0.1}", "training.warmup_steps=0.25")
    run = run_stage1(make_stage1("training.max_steps=8", "training.effective_batch_size=2", "training.save_strategy=no", *schedule))
    rates = [event["learning_rate"] for event in events(run)]
    assert rates[:3] == pytest.approx([0.0, 0.5e-3, 1e-3])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    half_way = 0.1 + 0.9 * 0.5
    assert rates[5] == pytest.approx(half_way * 1e-3)
    assert rates[-1] > 0.1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "is_clipped"), [(0.25, True), (0.0, False)])
def test_gradients_are_scaled_down_to_their_largest_norm(make_stage1: Stage1Maker, tiny_folder: Path, limit: float, is_clipped: bool) -> None:
    """One step of plain descent with rate 1 moves the weights by the gradient itself."""
    settings = ("training.optim=sgd", "training.learning_rate=1.0", f"training.max_grad_norm={limit}", "training.weight_decay=0")
    run = run_stage1(make_stage1(*ONCE, *settings))
    moved, norm = distance(weights(run / "final"), weights(tiny_folder)), events(run)[0].get("grad_norm")
    assert moved == pytest.approx(limit, rel=1e-3) if is_clipped else moved > 0.25
    assert not is_clipped or norm > 0.25


@pytest.mark.slow
def test_no_checkpoint_and_no_best_one_before_the_delay(make_stage1: Stage1Maker) -> None:
    best = ("training.load_best_model_at_end=true", "training.save_delay_steps=3")
    run = run_stage1(make_stage1(*EVALUATED, *DESTROYING, *best))
    losses = [event["eval_loss"] for event in events(run, "eval")]
    assert losses[0] < min(losses[2:])
    assert names(run) == ["checkpoint-3", "checkpoint-4"]
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["best_metric"] == min(losses[2:])
    assert Path(state["best_model_checkpoint"]).name == f"checkpoint-{3 + losses[2:].index(min(losses[2:]))}"


@pytest.mark.slow
def test_training_stops_early_and_a_resumed_run_goes_on_counting(make_stage1: Stage1Maker) -> None:
    patience = ("training.max_steps=9", "training.early_stopping_patience=3", *EVALUATED, *DESTROYING)
    straight = run_stage1(make_stage1(*patience))
    losses = [event["eval_loss"] for event in events(straight, "eval")]
    assert min(losses[-3:]) >= min(losses[:-3])
    assert all(min(losses[end - 3 : end]) < min(losses[: end - 3]) for end in range(4, len(losses)))
    assert len(losses) < 9
    cut = run_stage1(make_stage1(*patience))
    for checkpoint in list_checkpoints(cut)[2:]:
        (checkpoint / "trainer_state.json").unlink()
    assert run_stage1(make_stage1(*patience, "training.resume_from_checkpoint=true")) == cut
    assert [event["step"] for event in events(cut)] == [event["step"] for event in events(straight)]


@pytest.mark.slow
def test_the_best_checkpoint_by_an_error_is_the_one_with_the_least(make_stage1: Stage1Maker) -> None:
    best = ("training.metric_for_best_model=coord_diag/expected_bin_mae", "training.load_best_model_at_end=true")
    run = run_stage1(make_stage1(*EVALUATED, "training.max_steps=3", *best, *DESTROYING))
    errors = [event["eval_coord_diag/expected_bin_mae"] for event in events(run, "eval")]
    state = json.loads((run / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_metric"] == min(errors)
    assert state["best_global_step"] == 1 + errors.index(min(errors))


@pytest.mark.slow
def test_sample_limits_take_the_first_records(make_stage1: Stage1Maker) -> None:
    run = run_stage1(make_stage1(*ONCE, "training.eval_strategy=epoch", "custom.train_sample_limit=3", "custom.val_sample_limit=2"))
    data = json.loads((run / "run_metadata.json").read_text())["data"]
    assert (data["train"]["records"], data["val"]["records"]) == (3, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(("training.fp16=true",), r"training\.fp16: mixed precision with float16 needs a CUDA GPU; use training\.bf16: true", id="fp16"),
        pytest.param(("model.torch_dtype=float16",), r"model\.torch_dtype: weights in float16 cannot be trained", id="float16-weights"),
        pytest.param((*EVALUATED, "training.metric_for_best_model=token_ac"), "no evaluation logs 'token_ac'; did you mean eval_token_acc", id="metric"),
        pytest.param(
            (*EVALUATED, "training.metric_for_best_model=format_token_frac"),
            r"training\.greater_is_better: whether more of 'format_token_frac'",
            id="direction",
        ),
        pytest.param(("training.early_stopping_patience=2",), "early_stopping_patience: needs evaluations", id="patience"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(make_stage1: Stage1Maker, tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_stage1(make_stage1(*overrides))
    assert not (tmp_path / "runs").exists()
