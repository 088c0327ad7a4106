from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordexp.training.arguments import BatchShape, build_arguments, derive_batch_shape, reporters
from coordexp.types.errors import ConfigError


@pytest.mark.parametrize(
    ("per_device", "world_size", "effective", "accumulation", "expected"),
    [
        pytest.param(2, 1, 8, None, BatchShape(8, 2, 4), id="derived"),
        pytest.param(3, 1, 8, None, BatchShape(8, 3, 3), id="rounded-up"),
        pytest.param(2, 2, 8, None, BatchShape(8, 2, 2), id="two-devices"),
        pytest.param(2, 2, None, 3, BatchShape(12, 2, 3), id="given"),
        pytest.param(4, 1, None, None, BatchShape(4, 4, 1), id="neither"),
        pytest.param(16, 1, 4, None, BatchShape(4, 16, 1), id="smaller-than-a-forward"),
    ],
)
def test_accumulation_follows_from_the_effective_size(
    per_device: int, world_size: int, effective: int | None, accumulation: int | None, expected: BatchShape
) -> None:
    assert derive_batch_shape(per_device=per_device, world_size=world_size, effective=effective, accumulation=accumulation) == expected


def test_a_step_needs_a_sample_for_each_device() -> None:
    with pytest.raises(ConfigError, match="2 samples leaves some of 4 devices"):
        derive_batch_shape(per_device=1, world_size=4, effective=2, accumulation=None)


def test_names_pass_through_and_accumulation_stays_ours(tmp_path: Path) -> None:
    arguments = build_arguments({"learning_rate": 0.5, "adam_beta2": 0.98, "use_cpu": True, "gradient_accumulation_steps": 4}, run_folder=tmp_path)
    assert (arguments.learning_rate, arguments.adam_beta2, arguments.gradient_accumulation_steps) == (0.5, 0.98, 1)
    assert arguments.output_dir == str(tmp_path)


@pytest.mark.parametrize(
    "values", [{"label_smoothing_factor": 0.1}, {"train_sampling_strategy": "group_by_length"}, {"deepspeed": "zero2.json"}, {"use_cache": True}]
)
def test_a_setting_without_effect_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^training.{next(iter(values))}: "):
        build_arguments({**values, "use_cpu": True}, run_folder=tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"lr_scheduler_type": "zigzag"},
        {"lr_scheduler_kwargs": {"foo": 1}},
        {"lr_scheduler_type": "cosine_with_min_lr"},
        {"optim": "lomo"},
    ],
    ids=str,
)
def test_what_transformers_refuses_is_one_sentence_before_anything_is_loaded(tmp_path: Path, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="transformers refuses"):
        build_arguments({**values, "use_cpu": True}, run_folder=tmp_path)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "reduce_lr_on_plateau", "polynomial"])
def test_schedules_of_transformers_are_taken(tmp_path: Path, name: str) -> None:
    arguments = build_arguments({"lr_scheduler_type": name, "warmup_steps": 3, "eval_strategy": "steps", "use_cpu": True}, run_folder=tmp_path)
    assert arguments.lr_scheduler_type == name


@pytest.mark.parametrize(("wanted", "expected"), [(None, ["tensorboard"]), ("none", []), (["tensorboard", "wandb"], ["tensorboard", "wandb"])])
def test_tensorboard_is_the_default(wanted: Any, expected: list[str]) -> None:
    assert reporters({"report_to": wanted}) == expected
