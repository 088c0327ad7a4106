"""What a Stage-1 run is made of: checkpoint, data, batch shape and schedule, opened and checked against each other. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from coordexp.config.stage2_problems import too_few_packs
from coordexp.config.train import TrainConfig
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import NUM_BATCHES
from coordexp.losses.coordinates import CoordLossWeights
from coordexp.losses.lean import lean_rows
from coordexp.losses.rows import RowFunction, plain_rows
from coordexp.models.load import LoadedModel, load_model
from coordexp.recipes.stage1_data import RunData, build_sources, data_seed, extra_setting, read_data
from coordexp.recipes.stage1_packing import EvalForwards, build_schedule, check_source, plan_evaluation
from coordexp.recipes.stage1_tuner import Tuned, tune_model
from coordexp.training import run_folder
from coordexp.training.arguments import BatchShape, build_arguments, derive_batch_shape
from coordexp.training.checkpoints import check_free_space, check_states
from coordexp.training.detection import DetectionEval, spread
from coordexp.training.faults import OnError, SkipLog
from coordexp.training.joined import SampleSource
from coordexp.training.objective import Stage1Objective
from coordexp.training.precision import check_precision
from coordexp.training.schedules import Schedule
from coordexp.training.sharding import check_resumable
from coordexp.types.errors import ConfigError, DataError
from coordexp.types.progress import Progress


@dataclass(frozen=True, slots=True)
class Stage1Parts:
    """What a run is made of, checked, before anything is written."""

    loaded_model: LoadedModel
    tuned: Tuned
    data: RunData
    train: SampleSource
    val: SampleSource | None
    schedule: Schedule
    evaluation: EvalForwards | None
    shape: BatchShape
    num_steps: int
    resume: Path | None
    skips: SkipLog | None
    """Takes note of samples that cannot be read; None: they are errors."""


def prepare_stage1(config: TrainConfig, *, world_size: int = 1, progress: Progress | None = None, keeps_lengths: bool = True) -> Stage1Parts:
    """Open checkpoint and data and check them against each other and the settings; writes nothing but, with `keeps_lengths`, lengths into the cache folder.

    Raises:
        UserError: the first thing that is wrong.
    """
    training = config.training
    run_folder.check_run_name(training.run_name)
    build_arguments(training.hf_arguments(), run_folder=training.output_dir, needs_metric=training.early_stopping_patience is not None)
    shape = derive_batch_shape(
        per_device=training.per_device_train_batch_size,
        world_size=world_size,
        effective=training.effective_batch_size,
        accumulation=training.gradient_accumulation_steps,
    )
    _check_queue(config, shape)
    resume = _find_resume(config)
    _check_resume(config, world_size=world_size, resume=resume)
    data = read_data(config)
    model = load_model(config.model.model, dtype=config.model.torch_dtype, attn_implementation=config.model.attn_impl, quantization=config.model.quantization)
    tuned = tune_model(config, model, resume=resume)
    has_cuda = torch.cuda.is_available() and not training.use_cpu
    if (warning := check_precision(model.model, fp16=training.fp16, has_cuda=has_cuda)) is not None and progress is not None:
        progress.say(warning)
    train, val = build_sources(config, model, data)
    drop_last = bool(extra_setting(config, "dataloader_drop_last", False))
    lengths = None if config.data.streaming else check_source(config, train, name="training data", progress=progress, keeps_lengths=keeps_lengths)
    schedule = build_schedule(config, train, shape, lengths=lengths, mixture=data.mixture, seed=data_seed(config), drop_last=drop_last)
    evaluation = None
    if val is not None:
        lengths = check_source(config, val, name="validation data", progress=progress, keeps_lengths=keeps_lengths)
        evaluation = plan_evaluation(config, val, lengths=lengths, seed=data_seed(config), world_size=world_size)
        _check_detection_sample(config, val)
    if training.save_strategy != "no":
        check_free_space(training.output_dir, tuned.disk_bytes)
    num_steps = training.max_steps if training.max_steps > 0 else math.ceil((training.num_train_epochs or 0) * schedule.steps_per_epoch)
    skips = SkipLog() if config.data.on_error == "skip" else None
    return Stage1Parts(model, tuned, data, train, val, schedule, evaluation, shape, num_steps, resume, skips)


def _check_detection_sample(config: TrainConfig, val: SampleSource) -> None:
    """Raises DataError when detection in evaluation would look at records without any object: every number would be undefined."""
    section = config.custom.eval_detection
    sample = [val.records[index] for index in spread(len(val), section.limit)]
    if section.enabled and not any(record.objects for record in sample):
        raise DataError(
            f"the {len(sample)} validation records that are detected on hold no object",
            where=str(config.custom.val_jsonl or config.custom.fusion_config),
            fix="raise custom.eval_detection.limit, or set enabled: false there",
        )


def loss_weights(config: TrainConfig) -> CoordLossWeights | None:
    """None: coordinates are trained as ordinary tokens."""
    section = config.custom.coord_soft_ce_w1
    if not section.enabled:
        return None
    return CoordLossWeights(
        soft_ce=section.soft_ce_weight,
        w1=section.w1_weight,
        ce=section.ce_weight,
        gate=section.gate_weight,
        temperature=section.temperature,
        target_sigma=section.target_sigma,
        target_truncate=section.target_truncate,
    )


def stage1_objective(config: TrainConfig, model: LoadedModel) -> Stage1Objective:
    by_token_type = config.custom.token_type_metrics.enabled
    return Stage1Objective(model.coord_vocab.ids, weights=loss_weights(config), rows=row_function(config), by_token_type=by_token_type)


def row_function(config: TrainConfig) -> RowFunction:
    """How losses read the output head."""
    return lean_rows if config.custom.loss_impl == "lean" else plain_rows


def detection_eval(
    config: TrainConfig,
    model: LoadedModel,
    val: SampleSource,
    *,
    say: Callable[[str], None],
    rank: int = 0,
    world_size: int = 1,
    on_error: OnError | None = None,
) -> DetectionEval | None:
    """Detection in each evaluation, when the configuration asks for it."""
    section = config.custom.eval_detection
    if not section.enabled:
        return None
    backend = HfBackend(model, batch_size=section.batch_size)
    return DetectionEval(
        val,
        backend,
        tokenizer=backend.text_tokenizer,
        limit=section.limit,
        max_new_tokens=section.max_new_tokens,
        window=NUM_BATCHES * section.batch_size,
        is_required=config.selects_by_detection,
        rank=rank,
        world_size=world_size,
        say=say,
        on_error=on_error,
    )


def _check_queue(config: TrainConfig, shape: BatchShape) -> None:
    """Raises ConfigError when the queue of ready packs can never hold a whole step."""
    if config.stage2_ab is None or config.stage2_ab.channel_b.mode != "async":
        return
    target = config.stage2_ab.channel_b.async_.prefetch_target_packs
    if target < shape.packs_per_step:
        what, fix = too_few_packs(target, shape.packs_per_step)
        raise ConfigError(what, where="stage2_ab.channel_b.async.prefetch_target_packs", fix=fix)


def _check_resume(config: TrainConfig, *, world_size: int, resume: Path | None) -> None:
    is_sharded = config.training.fsdp is not None
    if is_sharded and world_size == 1:
        what = "splits the model over processes, and there is one"
        raise ConfigError(what, where="training.fsdp", fix="start one for each GPU: scripts/train.sh config=<yaml> gpus=0,1")
    if resume is not None:
        check_resumable(resume, is_sharded=is_sharded)
        check_states(resume)


def _find_resume(config: TrainConfig) -> Path | None:
    wanted = config.training.resume_from_checkpoint
    if not wanted:
        return None
    if wanted is True:
        return run_folder.find_resume_checkpoint(config.training.output_dir, config.training.run_name)
    return run_folder.check_resume_checkpoint(Path(wanted))
