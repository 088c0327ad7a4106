"""Whole Stage-1 runs that train an adapter: resumable to the last bit, with a `final` that opens for inference."""

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
from coordexp.metrics.payload import parse_line
from coordexp.models.load import load_model
from coordexp.models.tiny import build_tiny
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_folder import list_checkpoints
from coordexp.types.errors import BackendError, CheckpointError, ConfigError, UserError

Stage1Maker = Callable[..., Loaded[TrainConfig]]
Same = Callable[[Any, Any], bool]
LORA = ("tuner.train_type=lora", "tuner.lora_rank=4", "tuner.lora_dropout=0.1")
ROWS = ("custom.coord_offset.enabled=true",)
DETECTION = ("custom.eval_detection.enabled=true", "custom.eval_detection.limit=3", "custom.eval_detection.max_new_tokens=12")

torch.set_num_threads(1)


def events(run: Path) -> list[dict[str, Any]]:
    """Log events without clocks."""
    lines = [parse_line(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.metrics.items() if "runtime" not in key and "per_second" not in key} for line in lines]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_resumed_adapter_run_equals_the_straight_one_bit_for_bit(make_stage1: Stage1Maker, same: Same) -> None:
    """10 samples, 4 a step: 3 steps an epoch, so step 2 lies inside the first epoch. The dropout of LoRA draws random numbers."""
    rates = ("training.optimizer=multimodal", "training.vit_lr=1e-4", "training.aligner_lr=2e-4", "training.weight_decay=0.01")
    settings = (*LORA, "tuner.use_dora=true", *ROWS, *rates, *DETECTION, "training.max_steps=4", "training.eval_strategy=steps", "training.eval_steps=2")
    straight, cut = run_stage1(make_stage1(*settings)), run_stage1(make_stage1(*settings))
    expected = events(straight)
    (cut / "checkpoint-4" / "trainer_state.json").unlink()
    assert run_stage1(make_stage1(*settings, "training.resume_from_checkpoint=true")) == cut
    assert events(cut)[:-1] == expected[:-1]
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        states = [torch.load(run / "checkpoint-4" / name, weights_only=False) for run in (straight, cut)]
        assert same(*states), name
    assert same(adapter(straight / "checkpoint-4"), adapter(cut / "checkpoint-4"))
    assert not same(adapter(cut / "checkpoint-2"), adapter(cut / "checkpoint-4"))
    assert same(load_file(straight / "final" / "model.safetensors"), load_file(cut / "final" / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "overrides"),
    [
        pytest.param("tiny_folder", (*LORA, *ROWS), id="lora-rows-tied"),
        pytest.param("untied_folder", (*LORA, *ROWS, "custom.coord_offset.tie_head=false"), id="lora-rows-untied"),
        pytest.param("tiny_folder", ROWS, id="rows-alone"),
    ],
)
def test_final_is_a_plain_checkpoint_with_the_loss_of_the_adapter(
    make_stage1: Stage1Maker, request: pytest.FixtureRequest, folder: str, overrides: tuple[str, ...], same: Same
) -> None:
    """A further run on `final` with a learning rate of nothing sees the evaluation loss that the adapter had at its end."""
    base = request.getfixturevalue(folder)
    evaluate = ("training.eval_strategy=steps", "training.eval_steps=2")
    run = run_stage1(make_stage1(f"model.model={base}", *overrides, *evaluate, "training.max_steps=2"))
    assert not list((run / "checkpoint-2").glob("model*.safetensors"))
    assert same(adapter(run / "checkpoint-2"), adapter(run / "final-adapter"))
    assert not list((run / "final").glob("adapter*"))
    again = run_stage1(make_stage1(f"model.model={run}/final", *evaluate, "training.eval_on_start=true", "training.max_steps=2", "training.save_strategy=no"))
    ours, merged = ([event["eval_loss"] for event in events(folder) if "eval_loss" in event] for folder in (run, again))
    assert merged[0] == pytest.approx(ours[-1], rel=1e-5)
    old, new = load_model(base).model.state_dict(), load_model(run / "final").model.state_dict()
    coord = torch.tensor(load_model(base).coord_vocab.ids)
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        rows = (old[name] != new[name]).any(dim=1).nonzero().squeeze(-1)
        assert 0 < len(rows) <= len(coord)
        assert torch.isin(rows, coord).all()


@pytest.mark.slow
def test_the_best_adapter_becomes_final(make_stage1: Stage1Maker, same: Same) -> None:
    """The first step of a warm-up changes nothing, the next ones with this learning rate destroy the model."""
    rhythm = ("training.eval_strategy=steps", "training.eval_steps=1", "training.save_steps=1", "training.max_steps=3", "training.warmup_steps=2")
    best = ("training.load_best_model_at_end=true", "training.metric_for_best_model=eval_loss", "training.learning_rate=0.9")
    run = run_stage1(make_stage1(*LORA, *ROWS, *rhythm, *best))
    losses = [event["eval_loss"] for event in events(run) if "eval_loss" in event]
    assert losses[0] < min(losses[1:])
    assert same(adapter(run / "final-adapter"), adapter(run / "checkpoint-1"))
    assert load_model(run / "final").model.config.tie_word_embeddings


@pytest.mark.slow
def test_final_is_written_for_a_run_that_was_killed_before_it(make_stage1: Stage1Maker, same: Same) -> None:
    run = run_stage1(make_stage1(*LORA, "training.max_steps=2"))
    expected = load_file(run / "final" / "model.safetensors")
    (run / "final").rename(run / "moved")
    assert run_stage1(make_stage1(*LORA, "training.max_steps=2", "training.resume_from_checkpoint=true")) == run
    assert same(load_file(run / "final" / "model.safetensors"), expected)


@pytest.mark.slow
def test_final_is_the_last_step_when_that_is_no_checkpoint(make_stage1: Stage1Maker, same: Same) -> None:
    """Only the first step is the best one; the others destroy the model."""
    rhythm = ("training.save_strategy=best", "training.metric_for_best_model=eval_loss", "training.eval_strategy=steps", "training.eval_steps=1")
    run = run_stage1(make_stage1(*LORA, *rhythm, "training.max_steps=2", "training.warmup_steps=1", "training.learning_rate=0.9"))
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-1"]
    assert not same(adapter(run / "final-adapter"), adapter(run / "checkpoint-1"))
    load_model(run / "final")


@pytest.mark.slow
def test_gradient_checkpointing_gives_the_same_adapter(make_stage1: Stage1Maker) -> None:
    runs = [
        run_stage1(make_stage1(*LORA, *ROWS, "tuner.lora_dropout=0", "training.max_steps=2", f"training.gradient_checkpointing={switch}"))
        for switch in ("false", "true")
    ]
    plain, recomputed = (adapter(run / "checkpoint-2") for run in runs)
    for name, tensor in plain.items():
        torch.testing.assert_close(recomputed[name], tensor, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_parts_learn_at_their_own_rates(make_stage1: Stage1Maker, tiny_folder: Path) -> None:
    """A rate of almost nothing for two parts: only the language model moves."""
    rates = ("training.optimizer=multimodal", "training.vit_lr=1e-30", "training.aligner_lr=1e-30")
    run = run_stage1(make_stage1(*rates, "training.max_steps=2"))
    old, new = load_model(tiny_folder).model.state_dict(), load_model(run / "final").model.state_dict()
    moved = {name for name in old if (old[name] - new[name]).abs().max() > 1e-20}
    assert moved
    assert not any(".visual." in name for name in moved)
    assert max(event.get("learning_rate", 0.0) for event in events(run)) > 1e-4


@pytest.mark.slow
def test_one_rate_for_all_parts_is_the_ordinary_optimizer(make_stage1: Stage1Maker, same: Same) -> None:
    settings = ("training.max_steps=2", "training.weight_decay=0.1")
    plain, by_part = (load_file(run_stage1(make_stage1(*settings, *more)) / "final" / "model.safetensors") for more in ((), ("training.optimizer=multimodal",)))
    assert same(plain, by_part)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        pytest.param((*LORA, "training.optimizer=multimodal", "training.vit_lr=1e-5", "tuner.freeze_vit=true"), ConfigError, "nothing of the vit", id="rate"),
        pytest.param((*LORA, "tuner.target_modules=[query]"), ConfigError, "no module 'query'", id="target"),
        pytest.param((*ROWS, "custom.coord_offset.tie_head=false"), ConfigError, "false needs a head of its own", id="tables"),
        pytest.param((*LORA, "model.quantization=4bit"), BackendError, "bitsandbytes is not installed; install it", id="quantization"),
    ],
)
def test_what_does_not_fit_is_found_before_anything_is_written(
    make_stage1: Stage1Maker, tmp_path: Path, overrides: tuple[str, ...], error: type[UserError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_stage1(make_stage1(*overrides))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_kind_is_not_resumed(make_stage1: Stage1Maker, tmp_path: Path) -> None:
    run = run_stage1(make_stage1(*LORA, "training.max_steps=2"))
    resume = f"training.resume_from_checkpoint={run}/checkpoint-2"
    with pytest.raises(CheckpointError, match=r"holds an adapter, and tuner\.train_type is full"):
        run_stage1(make_stage1("training.max_steps=4", resume))
    with pytest.raises(CheckpointError, match="trained with lora_alpha"):
        run_stage1(make_stage1(*LORA, "tuner.lora_alpha=7", "training.max_steps=4", resume))
    other = build_tiny(tmp_path / "other", seed=77)
    with pytest.raises(CheckpointError, match=f"the weights in {other} are not those that the adapter was trained on; set model.model to"):
        run_stage1(make_stage1(*LORA, f"model.model={other}", "training.max_steps=4", resume))
    metadata = json.loads((run / "run_metadata.json").read_text())
    assert (metadata["adapter"]["peft_type"], metadata["adapter"]["r"]) == ("LORA", 4)
    assert metadata["parameters"]["vit"]["trainable"] > 0
