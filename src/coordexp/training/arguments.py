"""The training section as `TrainingArguments`: names pass through; what our own step would ignore is refused, never swallowed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Trainer, TrainingArguments, get_scheduler

from coordexp.training.selection import best_metric
from coordexp.training.sharding import number_formats, refuse_engine, sharding_arguments
from coordexp.types.errors import ConfigError, first_line

_IGNORED: Final[dict[str, tuple[Any, str]]] = {
    "label_smoothing_factor": (0.0, "the losses have soft targets of their own (custom.coord_soft_ce_w1)"),
    "train_sampling_strategy": ("random", "the step loader shuffles by the seed"),
    "include_num_input_tokens_seen": ("no", "count tokens with base_ce/noncoord_tokens and coord_diag/coord_tokens"),
    "use_liger_kernel": (False, "its fused loss does not know coordinate slots"),
    "torch_empty_cache_steps": (None, "it is not used by the step that loops over packs"),
    "neftune_noise_alpha": (None, "it is not tested with image placeholders"),
    "use_cache": (False, "with a cache, packed samples are silently wrong"),
    "eval_use_gather_object": (False, "evaluation gathers sums only"),
    "batch_eval_metrics": (False, "evaluation gathers sums only"),
    "include_for_metrics": ([], "evaluation gathers sums only"),
    "eval_accumulation_steps": (None, "evaluation gathers sums only"),
    "dataloader_persistent_workers": (False, "samples are prepared by threads"),
    "dataloader_multiprocessing_context": (None, "samples are prepared by threads"),
    "dataloader_prefetch_factor": (None, "two steps are prepared ahead"),
    "deepspeed": (None, "DeepSpeed steps its engine inside every backward, which is wrong with several packs in a step"),
    "fsdp_config": (None, "the layers to split follow from the model, the number formats from training.bf16"),
    "parallelism_config": (None, "only data parallelism is supported"),
    "push_to_hub": (False, "upload a checkpoint with the hub's own client"),
    "enable_jit_checkpoint": (False, "checkpoints are written between steps"),
    "logging_nan_inf_filter": (False, "a loss that is not finite stops the training"),
    "ignore_data_skip": (True, "the position in the data follows from the step"),
}
"""Name → (the only value that works, why). Hugging Face's own defaults for these names work."""

_ANY_STEPS: Final = 1000
"""Stands for the steps of a run that is counted in epochs."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How the samples of an optimizer step are spread.

    Example: 16 samples, 4 to a forward, on 2 devices: `BatchShape(samples_per_step=16, per_pack=4, packs_per_step=2)`
    """

    samples_per_step: int
    """Over all devices."""
    per_pack: int
    packs_per_step: int
    """Forwards on each device: gradient accumulation."""


def derive_batch_shape(*, per_device: int, world_size: int, effective: int | None, accumulation: int | None) -> BatchShape:
    """`effective = per_device * world_size * accumulation`; with an effective size accumulation is derived, rounded up, and the step holds exactly
    `effective` samples.

    Raises:
        ConfigError: the step would have fewer samples than there are devices.
    """
    if effective is None:
        packs = accumulation or 1
        return BatchShape(samples_per_step=per_device * world_size * packs, per_pack=per_device, packs_per_step=packs)
    if effective < world_size:
        raise ConfigError(
            f"a step of {effective} samples leaves some of {world_size} devices without any",
            where="training.effective_batch_size",
            fix=f"use at least {world_size}",
        )
    packs = math.ceil(math.ceil(effective / world_size) / per_device)
    return BatchShape(samples_per_step=effective, per_pack=per_device, packs_per_step=packs)


def build_arguments(values: Mapping[str, Any], *, run_folder: Path, needs_metric: bool = False) -> TrainingArguments:
    """Arguments for a run in `run_folder`.

    Args:
        values: what the configuration passes on, by the names of `TrainingArguments`.
        run_folder: where checkpoints go.
        needs_metric: training is ended by a metric of evaluation.

    Raises:
        ConfigError: a setting without effect here, a metric that no evaluation logs, or what TrainingArguments refuse.
    """
    _refuse_ignored(values)
    refuse_engine(is_sharded=values.get("fsdp") is not None)
    ours = {
        "output_dir": str(run_folder),
        "gradient_accumulation_steps": 1,
        "remove_unused_columns": False,
        "ignore_data_skip": True,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        # TensorBoard is added by hand, with a folder of our choice
        "report_to": [name for name in reporters(values) if name != "tensorboard"] or "none",
    }
    dropped = {"resume_from_checkpoint", "dataloader_num_workers", *_IGNORED}
    passed = {name: value for name, value in values.items() if name not in dropped and value is not None}
    if mode := passed.pop("fsdp", None):
        passed |= sharding_arguments(mode)
    try:
        arguments = TrainingArguments(**{**passed, **ours, **best_metric(values, is_needed=needs_metric)})
        _try_optimizer(arguments)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"transformers refuses these settings ({first_line(error)})", where="training") from error
    if arguments.fsdp:
        plugin: Any = arguments.fsdp_plugin_args
        plugin["mixed_precision_policy"] = number_formats(bf16=arguments.bf16)
    if arguments.n_gpu > 1:
        raise ConfigError(f"{arguments.n_gpu} GPUs are visible to one process", fix="start one process for each GPU: scripts/train.sh config=<yaml> gpus=0,1")
    return arguments


def _try_optimizer(arguments: TrainingArguments) -> None:
    """What Hugging Face would refuse only when the first step is near: an optimizer that is not installed, a schedule with options that it does not have."""
    with contextlib.suppress(ValueError):  # of optimizers that look for layers in the model
        Trainer.get_optimizer_cls_and_kwargs(arguments, torch.nn.Module())  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    num_steps = arguments.max_steps if arguments.max_steps > 0 else _ANY_STEPS
    options: Any = arguments.lr_scheduler_kwargs
    get_scheduler(arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(num_steps), num_steps, scheduler_specific_kwargs=options)


def reporters(values: Mapping[str, Any]) -> list[str]:
    """Where metrics are reported beside `logging.jsonl`; TensorBoard by default."""
    wanted = values.get("report_to")
    if wanted is None:
        return ["tensorboard"]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    return [] if names in (["none"], []) else [name for name in names if name != "none"]


def _refuse_ignored(values: Mapping[str, Any]) -> None:
    for name, (works, reason) in _IGNORED.items():
        value = values.get(name)
        if value is not None and value != works:
            raise ConfigError(f"{value!r} has no effect here: {reason}", where=f"training.{name}", fix="remove it")
