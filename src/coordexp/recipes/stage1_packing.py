"""How the samples of a Stage-1 run share forwards, as the configuration says: padded batches, or packed rows planned from lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from coordexp.batching.collate import Collator, PaddedCollator
from coordexp.batching.packed import PackedCollator
from coordexp.batching.packing import RowPlan, plan_rows
from coordexp.config.train import TrainConfig
from coordexp.data.mixture import Mixture
from coordexp.models.load import LoadedModel
from coordexp.semantics.cache import cache_folder
from coordexp.training.arguments import BatchShape
from coordexp.training.faults import OnError
from coordexp.training.joined import SampleSource
from coordexp.training.lengths import LengthBook
from coordexp.training.schedules import MappedSchedule, PackedSchedule, RowSettings, Schedule, StepSchedule, StreamSchedule, describe_rows, row_facts, shuffled
from coordexp.training.step_loader import EvalPackList, PackedRows, PackMaker, PaddedPacks, eval_groups
from coordexp.types.progress import NoProgress, Progress

STREAM_BUFFER = 1024
"""Samples that the packer of a streamed set looks at together, when `training.packing_buffer` is absent."""


@dataclass(frozen=True, slots=True)
class EvalForwards:
    """Which samples share a forward in evaluation, over all ranks."""

    groups: list[list[int]]
    plan: RowPlan | None
    """When they are packed."""


def check_source(config: TrainConfig, source: SampleSource, *, name: str, progress: Progress | None = None, keeps_lengths: bool = True) -> LengthBook | None:
    """Check all records and measure all samples; lengths are kept in the cache folder unless `keeps_lengths` is false.

    Returns:
        The lengths; None without a length limit, when nobody needs them.

    Raises:
        DataError: see `SampleSource.check`.
    """
    book = None
    if config.global_max_length is not None:
        folder, progress = cache_folder() if keeps_lengths else None, progress or NoProgress()
        book = LengthBook(source, folder=None if folder is None else folder / "lengths", name=name, progress=progress, say=progress.say)
    skips_images = config.data.on_error == "skip"
    refused = source.check(name=name, progress=progress, lengths=None if book is None else book.first, skips_images=skips_images)
    if refused and progress is not None:
        progress.say(f"warning: {len(refused)} of {len(source)} records of the {name} will be skipped, first {refused[0]}")
    return book


def build_schedule(
    config: TrainConfig, train: SampleSource, shape: BatchShape, *, lengths: LengthBook | None, mixture: Mixture | None, seed: int, drop_last: bool
) -> Schedule:
    """Which samples each optimizer step sees. A step takes `shape.samples_per_step` samples, or with packing as many rows.

    Raises:
        DataError: with packing, a sample that does not fit into a row and may not be cut.
    """
    count = len(train) if mixture is None else len(mixture)
    if config.training.packing and config.data.streaming:
        passes = _passes(train, mixture, seed=seed)
        return StreamSchedule(passes, num_steps=config.training.max_steps, rows_per_step=shape.samples_per_step, seed=seed, rows=_row_settings(config))
    if config.training.packing:
        assert lengths is not None, "the configuration requires global_max_length"
        measured = lengths.row_lengths if mixture is None else (lambda epoch: lengths.row_lengths(epoch)[mixture.epoch(epoch)])
        schedule = PackedSchedule(measured, rows_per_step=shape.samples_per_step, seed=seed, rows=_row_settings(config), drop_last_step=drop_last)
    else:
        schedule = StepSchedule(num_samples=count, samples_per_step=shape.samples_per_step, seed=seed, drop_last=drop_last)
    return schedule if mixture is None else MappedSchedule(schedule, mixture.epoch)


def plan_evaluation(config: TrainConfig, val: SampleSource, *, lengths: LengthBook | None, seed: int, world_size: int) -> EvalForwards:
    """Which samples share a forward in evaluation.

    Raises:
        DataError: with packing, a sample that does not fit into a row and may not be cut.
    """
    if not config.training.eval_packing:
        return EvalForwards(eval_groups(len(val), per_pack=config.training.per_device_eval_batch_size, world_size=world_size), plan=None)
    assert lengths is not None, "the configuration requires global_max_length"
    plan = plan_rows(lengths.row_lengths(0), capacity=_row_settings(config).capacity, seed=seed)
    return EvalForwards([plan.row(number).tolist() for number in range(len(plan))], plan=plan)


def build_collator(config: TrainConfig, model: LoadedModel, *, is_packed: bool) -> Collator:
    """Packs to tensors."""
    image_token, merge_size = int(model.model.config.image_token_id), int(model.processor.image_processor.merge_size)
    if is_packed:
        return PackedCollator(image_token_id=image_token, merge_size=merge_size, capacity=_row_settings(config).capacity)
    pad = model.tokenizer.pad_token_id
    # any id will do: padding is masked and predicts nothing
    return PaddedCollator(pad_token_id=0 if pad is None else int(pad), image_token_id=image_token, merge_size=merge_size)  # pyright: ignore[reportArgumentType]


def build_pack_maker(config: TrainConfig, shape: BatchShape) -> PackMaker:
    return PackedRows() if config.training.packing else PaddedPacks(shape.per_pack)


def build_eval_packs(
    config: TrainConfig, model: LoadedModel, val: SampleSource | None, evaluation: EvalForwards | None, *, rank: int, world_size: int, on_error: OnError | None
) -> EvalPackList | None:
    """What this rank evaluates on; None without evaluation."""
    if val is None or evaluation is None:
        return None
    collator = build_collator(config, model, is_packed=config.training.eval_packing)
    return EvalPackList(val, groups=evaluation.groups, collator=collator, rank=rank, world_size=world_size, on_error=on_error)


def describe_packing(schedule: Schedule, evaluation: EvalForwards | None) -> list[str]:
    """Sentences for the start of a run."""
    said = []
    plan = _first_plan(schedule)
    if plan is not None:
        said.append(f"packing: {describe_rows(plan)} in the first epoch")
    if isinstance(schedule, StreamSchedule):
        said.append(f"packing: records are read, checked and packed {schedule.buffer} at a time; an epoch is the whole training")
    if evaluation is not None and evaluation.plan is not None:
        said.append(f"packing in evaluation: {describe_rows(evaluation.plan)}")
    return said


def packing_facts(schedule: Schedule, evaluation: EvalForwards | None) -> dict[str, Any]:
    """The same for `run_metadata.json`; None for what is not packed, or not planned before it is read."""
    plans = {"train": _first_plan(schedule), "val": evaluation.plan if evaluation is not None else None}
    return {name: None if plan is None else row_facts(plan) for name, plan in plans.items()}


def _first_plan(schedule: Schedule) -> RowPlan | None:
    """None for what is not packed, or not planned before it is read."""
    inner = schedule.schedule if isinstance(schedule, MappedSchedule) else schedule
    return inner.first_plan if isinstance(inner, PackedSchedule) else None


def _row_settings(config: TrainConfig) -> RowSettings:
    training = config.training
    assert config.global_max_length is not None, "the configuration requires it"
    buffer = training.packing_buffer or (STREAM_BUFFER if config.data.streaming else None)
    return RowSettings(capacity=config.global_max_length, buffer=buffer, min_fill=training.packing_min_fill_ratio, drop_last=training.packing_drop_last)


def _passes(train: SampleSource, mixture: Mixture | None, *, seed: int) -> Callable[[int], Iterator[tuple[int, int]]]:
    """Samples with their lengths, measured as they come."""

    def read_pass(number: int) -> Iterator[tuple[int, int]]:
        samples = range(len(train)) if mixture is None else mixture.epoch(number).tolist()
        for place in shuffled(len(samples), seed=seed, epoch=number):
            yield samples[place], train.row_length(samples[place], epoch=number)

    return read_pass
