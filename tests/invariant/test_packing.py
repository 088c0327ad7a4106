"""Packed rows on the tiny real model: equal to padded batches and to single samples; wrong, and refused, when one of the known traps is stepped into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch import Tensor

from coordexp.batching.collate import BatchContractError, PackBatch, PaddedCollator
from coordexp.batching.packed import PackedCollator
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.load import LoadedModel
from coordexp.recipes.stage1 import build_trainer, run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.training.samples import SegmentSource
from coordexp.training.trainer import StepTrainer
from coordexp.types.errors import ConfigError
from coordexp.types.progress import NoProgress
from coordexp.types.sequences import Pack, Segment

Stage1Maker = Callable[..., Loaded[TrainConfig]]

torch.set_num_threads(1)

CAPACITY = 250
PACKED = ("training.packing=true", f"global_max_length={CAPACITY}", "training.per_device_train_batch_size=1", "training.effective_batch_size=2")


class Setup:
    """A trainer, its model, and segments of three image sizes with one to three objects."""

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        parts = prepare_stage1(config)
        self.loaded: LoadedModel = parts.loaded_model
        self.source: SegmentSource = parts.train
        self.trainer, loader = build_trainer(config, parts, folder=folder, progress=NoProgress(), process=PartialState(cpu=True))
        loader.close()
        self.segments: list[Segment] = [self.source.encode(index, epoch=0) for index in (1, 2, 3, 5, 6)]
        image_token = int(self.loaded.model.config.image_token_id)
        self.packed = PackedCollator(image_token_id=image_token, merge_size=2, capacity=4096)
        self.padded = PaddedCollator(pad_token_id=0, image_token_id=image_token, merge_size=2)


@pytest.fixture
def setup(make_stage1: Stage1Maker, tmp_path: Path) -> Setup:
    return Setup(make_stage1().config, tmp_path)


def gradients(trainer: StepTrainer, packs: tuple[PackBatch, ...]) -> tuple[float, list[Tensor]]:
    model = trainer.model
    assert model is not None
    model.zero_grad()
    loss = trainer.training_step(model, packs).item()
    return loss, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def second_sample(loaded: LoadedModel, batch: PackBatch, start: int, **inputs: Any) -> Tensor:
    """Logits of everything from column `start`, with the model in training mode."""
    loaded.model.train()
    wanted = {**batch.model_inputs, **inputs}
    wanted.pop("logits_to_keep")
    with torch.no_grad():
        return loaded.model(**wanted).logits[0, start:]


def test_packed_equals_padded_equals_one_at_a_time(setup: Setup) -> None:
    grids = {segment.images[0].grid_thw for segment in setup.segments}
    assert len(grids) == 3
    packed = setup.packed(Pack(segments=tuple(setup.segments)))
    padded = setup.padded(Pack(segments=tuple(setup.segments)))
    single = tuple(setup.padded(Pack(segments=(segment,))) for segment in setup.segments)
    assert packed.model_inputs["input_ids"].shape == (1, sum(segment.length for segment in setup.segments))
    loss, gradient = gradients(setup.trainer, single)
    for packs in ((packed,), (padded,)):
        other_loss, other_gradient = gradients(setup.trainer, packs)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        for one, other in zip(gradient, other_gradient, strict=True):
            assert (one - other).norm() <= 1e-4 * one.norm() + 1e-7


def test_the_loss_of_a_packed_row_in_evaluation_is_that_of_its_samples(setup: Setup) -> None:
    packed = setup.packed(Pack(segments=tuple(setup.segments)))
    single = tuple(setup.padded(Pack(segments=(segment,))) for segment in setup.segments)
    losses = []
    for packs in ((packed,), single):
        setup.trainer._eval_packs = packs
        losses.append(setup.trainer.evaluate()["eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


TRAPS: dict[str, Callable[[PackBatch], dict[str, Any]]] = {
    "the-default-cache": lambda batch: {},
    "a-mask-of-ones": lambda batch: {"use_cache": False, "attention_mask": torch.ones_like(batch.model_inputs["input_ids"])},
    "three-rows-of-positions": lambda batch: {"use_cache": False, "position_ids": batch.model_inputs["position_ids"][1:]},
}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_makes_the_second_sample_wrong(setup: Setup, trap: str) -> None:
    """Why rows are made as they are: without the trap the second sample of a row is what it is alone, with it it is something else."""
    first, second = setup.segments[1:3]
    start = first.length
    batch = setup.packed(Pack(segments=(first, second)))
    # the guard of the trainer would refuse the first trap
    model = setup.loaded.model
    hooks = dict(model._forward_pre_hooks)
    model._forward_pre_hooks.clear()
    alone = second_sample(setup.loaded, setup.packed(Pack(segments=(second,))), 0, use_cache=False)
    right = second_sample(setup.loaded, batch, start, use_cache=False)
    wrong = second_sample(setup.loaded, batch, start, **TRAPS[trap](batch))
    model._forward_pre_hooks.update(hooks)
    assert (right - alone).abs().max() < 1e-4
    assert (wrong - alone).abs().max() > 0.1


def test_a_batch_with_a_mask_or_three_rows_of_positions_cannot_be_made(setup: Setup) -> None:
    batch = setup.packed(Pack(segments=tuple(setup.segments[:2])))
    inputs = batch.model_inputs
    with pytest.raises(BatchContractError, match="no attention mask"):
        replace(batch, model_inputs={**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])})
    with pytest.raises(BatchContractError, match=r"position_ids of shape \(4, 1, \d+\), not \(3, 1, \d+\)"):
        replace(batch, model_inputs={**inputs, "position_ids": inputs["position_ids"][1:]})
    with pytest.raises(BatchContractError, match="not None"):
        replace(batch, model_inputs={name: value for name, value in inputs.items() if name != "position_ids"})


def test_a_training_forward_with_a_cache_is_refused(setup: Setup) -> None:
    batch = setup.packed(Pack(segments=tuple(setup.segments[:2])))
    setup.loaded.model.train()
    for arguments in ({}, {"use_cache": True}):
        with pytest.raises(BatchContractError, match="without use_cache=False"):
            setup.loaded.model(**batch.model_inputs, **arguments)


def test_a_row_over_its_capacity_is_refused_and_named(setup: Setup) -> None:
    small = replace(setup.packed, capacity=300)
    with pytest.raises(BatchContractError, match=r"samples train:2, train:3.* planned for 300"):
        small(Pack(segments=tuple(setup.segments)))


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    clocks = {"time", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    return [{key: value for key, value in line.items() if key not in clocks} for line in lines if "train_runtime" not in line]


def weights(checkpoint: Path) -> dict[str, Tensor]:
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.slow
def test_a_packed_run_resumed_at_any_step_equals_the_straight_one_bit_for_bit(make_stage1: Stage1Maker) -> None:
    """10 samples make 3 rows of 250 tokens, 2 steps an epoch: 6 steps are three epochs."""
    moves = ("custom.augmentation.hflip=0.5", "custom.augmentation.vflip=0.5", "custom.object_ordering=random")
    settings = (*PACKED, *moves, "training.max_steps=6", "training.save_steps=1")
    settings = (*settings, "training.eval_strategy=steps", "training.eval_steps=3", "training.eval_packing=true")
    straight = run_stage1(make_stage1(*settings))
    expected, final = events(straight), weights(straight / "checkpoint-6")
    assert len({event["pack/num_samples"] for event in expected if "loss" in event}) > 1
    for step in range(1, 6):
        for later in range(step + 1, 7):
            shutil.rmtree(straight / f"checkpoint-{later}")
        assert run_stage1(make_stage1(*settings, f"training.resume_from_checkpoint={straight}/checkpoint-{step}")) == straight
        assert events(straight) == expected
        resumed = weights(straight / "checkpoint-6")
        assert resumed.keys() == final.keys()
        assert all(torch.equal(resumed[name], final[name]) for name in final)


@pytest.mark.slow
def test_a_streamed_packed_run_resumes_where_it_was(make_stage1: Stage1Maker) -> None:
    """The buffer holds 4 of 10 samples, and 6 rows are more than one pass over them."""
    settings = (*PACKED, "data.streaming=true", "training.packing_buffer=4", "training.max_steps=4", "training.save_steps=1")
    straight = run_stage1(make_stage1(*settings))
    expected, final = events(straight), weights(straight / "checkpoint-4")
    assert json.loads((straight / "run_metadata.json").read_text())["packing"] == {"train": None, "val": None}
    shutil.rmtree(straight / "checkpoint-4")
    run_stage1(make_stage1(*settings, f"training.resume_from_checkpoint={straight}/checkpoint-3"))
    assert events(straight) == expected
    assert all(torch.equal(value, final[name]) for name, value in weights(straight / "checkpoint-4").items())


@pytest.mark.slow
def test_a_streamed_run_without_packing_is_the_same_run(make_stage1: Stage1Maker) -> None:
    settings = ("training.max_steps=3", "training.save_strategy=no", "data.prompt_labels=gt+negatives")
    first, second = (events(run_stage1(make_stage1(*settings, f"data.streaming={streaming}"))) for streaming in ("false", "true"))
    assert first == second


@pytest.mark.slow
def test_a_packed_run_says_and_keeps_how_full_its_rows_are(make_stage1: Stage1Maker) -> None:
    said: list[str] = []

    class Listener(NoProgress):
        def say(self, text: str) -> None:
            said.append(text)

    settings = (*PACKED, "training.max_steps=2", "training.save_strategy=no", "training.eval_strategy=steps", "training.eval_steps=2")
    run = run_stage1(make_stage1(*settings, "training.eval_packing=true"), progress=Listener())
    facts = json.loads((run / "run_metadata.json").read_text())["packing"]
    assert facts["train"]["samples"] == 10
    assert facts["train"]["rows"] >= facts["train"]["rows_lower_bound"] == -(-facts["train"]["tokens"] // CAPACITY)
    assert facts["train"]["fill"] == pytest.approx(facts["train"]["tokens"] / (facts["train"]["rows"] * CAPACITY), abs=1e-6)
    assert facts["val"]["samples"] == 5
    assert any(text.startswith("packing: ") and f"lower bound {facts['train']['rows_lower_bound']}" in text for text in said)
    assert sum("lower bound" in text for text in said) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(("training.packing=true",), "global_max_length.*is required when training.packing is true", id="no-row-length"),
        pytest.param(("training.eval_packing=true",), "global_max_length.*is required when training.eval_packing is true", id="no-row-length-in-evaluation"),
        pytest.param((*PACKED, "training.per_device_train_batch_size=2"), "with training.packing a forward is one row", id="two-rows"),
        pytest.param((*PACKED, "data.streaming=true", "training.max_steps=-1", "training.num_train_epochs=1"), r"training\.max_steps", id="endless"),
        pytest.param(("data.streaming=true", "custom.fusion_config=a.yaml", "custom.train_jsonl=null"), "works on one file", id="fusion"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make_stage1: Stage1Maker, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_stage1(*overrides)


@pytest.mark.slow
def test_packed_evaluation_equals_padded_evaluation(make_stage1: Stage1Maker) -> None:
    settings = ("training.max_steps=1", "training.save_strategy=no", "training.eval_strategy=steps", "training.eval_steps=1", f"global_max_length={CAPACITY}")
    padded, packed = (run_stage1(make_stage1(*settings, *more)) for more in ((), ("training.eval_packing=true",)))
    first, second = (next(event for event in events(run) if "eval_loss" in event) for run in (padded, packed))
    assert second["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-5)
    assert second["eval_base_ce/noncoord_tokens_per_sample"] == pytest.approx(first["eval_base_ce/noncoord_tokens_per_sample"])
