"""`coordexp train --dry-run`: what a run would do, from everything opened and checked as the run itself does it. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from coordexp.config.train import TrainConfig
from coordexp.losses.lean import rows_at_a_time
from coordexp.recipes.stage1_data import describe_data
from coordexp.recipes.stage1_packing import describe_packing
from coordexp.recipes.stage1_parts import Stage1Parts, prepare_stage1
from coordexp.training.detection import spread
from coordexp.training.memory import MemoryEstimate, estimate_memory, text_layer_bytes, vision_layer_bytes
from coordexp.types.progress import NoProgress, Progress

_MOST_MEASURED = 10_000
"""Samples, spread evenly: enough for quantiles."""
_LONGEST_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of training samples in the first epoch."""

    ids: tuple[str, ...]
    prompt: npt.NDArray[np.int64]
    """Tokens, with the image."""
    total: npt.NDArray[np.int64]
    patches: npt.NDArray[np.int64]
    """Of the image, before merging."""

    @property
    def answer(self) -> npt.NDArray[np.int64]:
        """Tokens."""
        return self.total - self.prompt


def plan_stage1(config: TrainConfig, *, world_size: int, progress: Progress | None = None) -> str:
    """The plan as text, for the console.

    Args:
        config: of the run.
        world_size: devices that the run will have.
        progress: shows the long loops.

    Raises:
        UserError: what would stop the run at its start.
    """
    progress = progress or NoProgress()
    parts = prepare_stage1(config, world_size=world_size, progress=progress, keeps_lengths=False)
    lengths = _measure(parts, progress)
    lines = (_model_lines(config, parts), _data_lines(config, parts, lengths), _step_lines(config, parts, world_size), _memory_lines(config, parts, lengths))
    return "\n".join(line for section in lines for line in section)


def _measure(parts: Stage1Parts, progress: Progress) -> Lengths:
    source, patch = parts.train, int(parts.loaded_model.processor.image_processor.patch_size)
    chosen = spread(len(source), _MOST_MEASURED)
    measured = [source.measure(index, epoch=0) for index in progress.track(chosen, "measure lengths", total=len(chosen))]
    records = [source.records[index] for index in chosen]
    return Lengths(
        ids=tuple(record.id for record in records),
        prompt=np.array([item.prompt for item in measured]),
        total=np.array([item.total for item in measured]),
        patches=np.array([record.width * record.height // patch**2 for record in records]),
    )


def _model_lines(config: TrainConfig, parts: Stage1Parts) -> Iterator[str]:
    model = parts.loaded_model
    yield f"trainer: {config.custom.trainer_variant or 'Stage-1'}"
    yield f"model: {model.path} ({str(model.model.dtype).removeprefix('torch.')}, attention {model.attn_used})"
    for size in parts.tuned.sizes:
        yield f"  {size.name:<8} {size.total / 1e6:10.3f} M parameters, {size.trainable / 1e6:10.3f} M trained"
    yield f"  {'all':<8} {parts.tuned.num_total / 1e6:10.3f} M parameters, {parts.tuned.num_trainable / 1e6:10.3f} M trained"


def _data_lines(config: TrainConfig, parts: Stage1Parts, lengths: Lengths) -> Iterator[str]:
    for name, files in (("training", parts.data.train), ("validation", parts.data.val)):
        for file in files:
            if name == "training" and config.data.streaming:
                yield f"{name} data: {file.path}: {len(file.records)} records, read as they are needed"
                continue
            objects = [len(record.objects) for record in file.records]
            empty = objects.count(0)
            yield f"{name} data: {file.path}: {len(objects)} records, {sum(objects)} objects ({max(objects)} at most, {empty} records without any)"
    yield from describe_data(parts.data)
    part = "" if len(lengths.ids) == len(parts.train) else f" (of {len(lengths.ids)} records, spread evenly)"
    yield f"tokens of a sample{part}: {_quantiles(lengths.total)}; of its answer: {_quantiles(lengths.answer)}"
    longest = np.argsort(-lengths.total, kind="stable")[:_LONGEST_SHOWN].tolist()
    yield "  longest: " + ", ".join(f"{lengths.ids[index]} ({lengths.total[index]})" for index in longest)


def _quantiles(values: npt.NDArray[np.int64]) -> str:
    low, middle, high = np.percentile(values, [0, 50, 95]).astype(int).tolist()
    return f"{low} at least, median {middle}, 95 % within {high}, {values.max()} at most"


def _step_lines(config: TrainConfig, parts: Stage1Parts, world_size: int) -> Iterator[str]:
    training, shape = config.training, parts.shape
    unit = "rows" if training.packing else "samples"
    devices = f"{world_size} device{'s' if world_size > 1 else ''}"
    yield f"a step: {shape.samples_per_step} {unit}, in {shape.packs_per_step} forwards of {shape.per_pack} on each of {devices}"
    if training.packing:
        yield from describe_packing(parts.schedule, parts.evaluation)
    else:
        yield "packing: off; samples of a forward are padded to the longest of them"
    per_epoch = parts.schedule.steps_per_epoch
    warmup = math.ceil(training.warmup_steps * parts.num_steps) if training.warmup_steps < 1 else int(training.warmup_steps)
    yield f"{parts.num_steps} steps = {parts.num_steps / per_epoch:.2f} epochs of {per_epoch} steps; {warmup} of them warm up to {training.learning_rate:g}"
    if parts.evaluation is not None:
        yield f"evaluation: {len(parts.evaluation.groups)} forwards over all devices, by {training.eval_strategy}"
    if parts.resume is not None:
        yield f"resumes {parts.resume}"


def _memory_lines(config: TrainConfig, parts: Stage1Parts, lengths: Lengths) -> Iterator[str]:
    estimate, config_of = _estimate(config, parts, lengths), _tower_configs(parts)
    shown = " + ".join(f"{name} {_spell(getattr(estimate, name))}" for name in ("weights", "gradients", "optimizer", "activations", "logits"))
    size = 2 if _is_half(config, parts) else 4
    text, vision = text_layer_bytes(config_of.text_config, size=size), vision_layer_bytes(config_of.vision_config, size=size)
    yield f"memory of a device, estimated: {_spell(estimate.total)} = {shown}"
    yield f"  activations: {text} bytes a token and layer of the language model, {vision} a patch and layer of the vision tower; with gradient checkpointing"
    yield "  those of one layer and the inputs of all. logits: rows held at once x vocabulary x 12 bytes. Not in it: what the allocator keeps, buffers of"
    yield "  libraries, sharding of weights (FSDP)."


def _estimate(config: TrainConfig, parts: Stage1Parts, lengths: Lengths) -> MemoryEstimate:
    extra = config.training.model_extra or {}
    tokens, patches, answers = _largest_forward(config, parts, lengths)
    is_lean = config.custom.loss_impl == "lean"
    return estimate_memory(
        parts.loaded_model.model,
        optim=str(extra.get("optim", "adamw_torch")),
        text_tokens=tokens,
        patches=patches,
        logit_rows=min(answers, rows_at_a_time(answers, _tower_configs(parts).text_config.vocab_size)) if is_lean else answers,
        is_half=_is_half(config, parts),
        is_checkpointed=any(extra.get(name, False) for name in ("gradient_checkpointing", "activation_checkpointing")),
    )


def _is_half(config: TrainConfig, parts: Stage1Parts) -> bool:
    """Activations have 16 bits."""
    return config.training.bf16 or config.training.fp16 or parts.loaded_model.model.dtype in (torch.bfloat16, torch.float16)


def _tower_configs(parts: Stage1Parts) -> Any:
    return parts.loaded_model.model.config


def _spell(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _largest_forward(config: TrainConfig, parts: Stage1Parts, lengths: Lengths) -> tuple[int, int, int]:
    """At most so many (tokens, patches, answer tokens)."""
    if not config.training.packing:
        tokens, patches, answers = (parts.shape.per_pack * int(values.max()) for values in (lengths.total, lengths.patches, lengths.answer))
        return tokens, patches, answers
    assert config.global_max_length is not None, "the configuration requires it"
    # a row full of the samples with the largest share
    patches, answers = (math.ceil(config.global_max_length * float((values / lengths.total).max())) for values in (lengths.patches, lengths.answer))
    return config.global_max_length, patches, answers
