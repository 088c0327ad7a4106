from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.arguments import build_arguments
from coordexp.training.sharding import LAYERS, OPTIMIZER_NAME, check_resumable, check_sharded, number_formats, refuse_engine
from coordexp.types.errors import CheckpointError, ConfigError

Stage1Maker = Callable[..., Loaded[TrainConfig]]
SHARDED = "training.fsdp=full_shard"


def test_sums_of_losses_and_gradients_are_not_rounded() -> None:
    mixed, plain = number_formats(bf16=True), number_formats(bf16=False)
    assert (mixed.param_dtype, mixed.reduce_dtype, mixed.output_dtype) == (torch.bfloat16, torch.float32, None)
    assert (plain.param_dtype, plain.reduce_dtype, plain.output_dtype) == (None, torch.float32, None)


@pytest.mark.parametrize(("mode", "reshards"), [("full_shard", True), ("shard_grad_op", False)])
def test_a_mode_becomes_the_second_version_of_fsdp(tmp_path: Path, mode: str, reshards: bool) -> None:
    arguments = build_arguments({"fsdp": mode, "bf16": True, "use_cpu": True}, run_folder=tmp_path)
    plugin = arguments.fsdp_plugin_args
    assert plugin is not None
    assert (plugin["fsdp_version"], plugin["reshard_after_forward"]) == (2, reshards)
    assert plugin["mixed_precision_policy"] == number_formats(bf16=True)
    assert plugin["transformer_cls_names_to_wrap"].split(",") == list(LAYERS)


def test_the_layers_that_are_split_are_those_of_the_model(tiny_folder: Path) -> None:
    names = {type(module).__name__ for module in load_model(tiny_folder).model.modules()}
    assert set(LAYERS) <= names


def test_a_model_that_is_not_split_though_it_was_asked_for_stops_the_run(tiny_folder: Path) -> None:
    for model in (nn.Linear(2, 2), load_model(tiny_folder).model):
        with pytest.raises(ConfigError, match="FSDP was asked for and is not in force"):
            check_sharded(Accelerator(cpu=True), model)


@pytest.mark.parametrize(
    ("environment", "is_sharded", "message"),
    [
        pytest.param({"ACCELERATE_USE_DEEPSPEED": "true"}, False, "variable ACCELERATE_USE_DEEPSPEED: DeepSpeed steps its engine inside every", id="deepspeed"),
        pytest.param({"ACCELERATE_USE_FSDP": "1"}, False, "variable ACCELERATE_USE_FSDP: FSDP is turned on there and not in the", id="fsdp"),
        pytest.param({"ACCELERATE_USE_DEEPSPEED": "true"}, True, "DeepSpeed", id="both"),
        pytest.param({"ACCELERATE_USE_FSDP": "true"}, True, None, id="fsdp-wanted"),
        pytest.param({"ACCELERATE_USE_DEEPSPEED": "false"}, False, None, id="off"),
    ],
)
def test_an_engine_that_only_the_launcher_chose_is_refused(environment: dict[str, str], is_sharded: bool, message: str | None) -> None:
    if message is None:
        refuse_engine(is_sharded=is_sharded, environment=environment)
        return
    with pytest.raises(ConfigError, match=message):
        refuse_engine(is_sharded=is_sharded, environment=environment)


def test_an_optimizer_that_was_saved_the_other_way_is_refused(tmp_path: Path) -> None:
    """Trainer would leave it out without a word."""
    with pytest.raises(CheckpointError, match=r"written without FSDP; remove training\.fsdp to resume it"):
        check_resumable(tmp_path, is_sharded=True)
    (tmp_path / OPTIMIZER_NAME).touch()
    with pytest.raises(CheckpointError, match=r"written with FSDP; set training\.fsdp to resume it"):
        check_resumable(tmp_path, is_sharded=False)
    check_resumable(tmp_path, is_sharded=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param((), "training.fsdp: splits the model over processes, and there is one", id="one-process"),
        pytest.param(("training.fp16=true",), "training.fp16: is not tested with training.fsdp", id="fp16"),
        pytest.param(("training.fsdp_config={min_num_params: 3}",), "training.fsdp_config: .* has no effect here", id="fsdp-config"),
        pytest.param(
            ("training.eval_strategy=epoch", "custom.eval_detection.enabled=true"),
            "custom.eval_detection.enabled: does not work with training.fsdp",
            id="detection",
        ),
        pytest.param(("custom.coord_offset.enabled=true",), "custom.coord_offset.enabled: does not work with training.fsdp", id="rows"),
        pytest.param(("custom.trainer_variant=rollout_matching_sft",), "custom.trainer_variant: generates answers while it trains", id="rollouts"),
        pytest.param(("tuner.train_type=lora", "model.quantization=4bit"), "model.quantization: is not tested with training.fsdp", id="quantization"),
    ],
)
def test_what_a_split_model_cannot_do_is_said_before_anything_is_written(
    make_stage1: Stage1Maker, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage1(make_stage1(SHARDED, *overrides))
    assert not (tmp_path / "runs").exists()


def test_deepspeed_is_refused_before_anything_is_written(make_stage1: Stage1Maker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.deepspeed: DeepSpeed \(it steps its engine inside every backward: wrong with several packs a step\)"):
        run_stage1(make_stage1("training.deepspeed=zero2.json"))
    assert not (tmp_path / "runs").exists()
