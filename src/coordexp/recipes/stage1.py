"""Stage-1: supervised fine-tuning on coordinate slots. Read top to bottom: everything is built and checked first, the run folder comes last."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from coordexp.batching.collate import PaddedCollator
from coordexp.batching.prompt import PromptEncoder
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import read_records
from coordexp.losses.coordinates import CoordLossWeights
from coordexp.models.export import save_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.training import run_folder
from coordexp.training.arguments import BatchShape, build_arguments, derive_batch_shape, reporters
from coordexp.training.callbacks import EpochCallback, ProgressCallback, RunLogCallback
from coordexp.training.checkpoints import check_free_space, explain_full_disk, link_model
from coordexp.training.metadata import RunFacts, add_resume, file_sha256, write_metadata
from coordexp.training.objective import Stage1Objective
from coordexp.training.parts import PartSize, freeze_parts
from coordexp.training.run_log import RunLog
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.training.step_loader import EvalPackList, StepLoader, StepSchedule
from coordexp.training.trainer import StepTrainer
from coordexp.types.errors import ConfigError, DataError
from coordexp.types.progress import NoProgress, Progress
from coordexp.types.records import Record

_BYTES_PER_PARAMETER = 12
"""float32 weights and the two moments of the optimizer, in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Stage1Parts:
    """What a run is made of, checked, before anything is written."""

    loaded_model: LoadedModel
    parts: tuple[PartSize, ...]
    train: SegmentSource
    val: SegmentSource | None
    schedule: StepSchedule
    shape: BatchShape
    num_steps: int
    resume: Path | None


def run_stage1(loaded: Loaded[TrainConfig], *, argv: Sequence[str] = (), progress: Progress | None = None) -> Path:
    """Train, and return the run folder. Its `final` is a checkpoint for inference (none with `training.save_strategy: no`).

    Raises:
        UserError: whatever can be wrong with settings, data, checkpoint or output; nothing was written then.
    """
    disable_progress_bar()
    process = PartialState(cpu=loaded.config.training.use_cpu)
    progress = (progress or NoProgress()) if process.is_main_process else NoProgress()
    config = loaded.config
    parts = prepare_stage1(config, world_size=process.num_processes, progress=progress)
    if parts.resume is not None and run_folder.read_step(parts.resume) >= parts.num_steps:
        progress.say(f"{parts.resume} has all {parts.num_steps} steps behind it: nothing to do")
        return run_folder.run_of(parts.resume) or parts.resume
    folder = _start_run(loaded, parts, argv=argv, process=process, progress=progress)
    trainer, loader = build_trainer(config, parts, folder=folder, progress=progress, process=process)
    start = time.perf_counter()
    try:
        with explain_full_disk(folder):
            trainer.train(resume_from_checkpoint=str(parts.resume) if parts.resume else None)
    finally:
        loader.close()
    final = _write_final(trainer, config, parts, folder) if process.is_main_process else None
    process.wait_for_everyone()
    progress.say(
        f"trained to step {trainer.state.global_step} in {time.perf_counter() - start:.0f} s" + (f"; checkpoint for inference: {final}" if final else "")
    )
    return folder


def prepare_stage1(config: TrainConfig, *, world_size: int = 1, progress: Progress | None = None) -> Stage1Parts:
    """Open checkpoint and data and check them against each other and the settings; writes nothing.

    Raises:
        UserError: the first thing that is wrong.
    """
    training = config.training
    run_folder.check_run_name(training.run_name)
    build_arguments(training.hf_arguments(), run_folder=training.output_dir)
    shape = derive_batch_shape(
        per_device=training.per_device_train_batch_size,
        world_size=world_size,
        effective=training.effective_batch_size,
        accumulation=training.gradient_accumulation_steps,
    )
    resume = _find_resume(config)
    train_records = _read(config, config.custom.train_jsonl, limit=config.custom.train_sample_limit)
    val_records = None if training.eval_strategy == "no" else _read(config, config.custom.val_jsonl, limit=config.custom.val_sample_limit)
    model = load_model(config.model.model, dtype=config.model.torch_dtype, attn_implementation=config.model.attn_impl)
    sizes = freeze_parts(model.model, llm=config.tuner.freeze_llm, vit=config.tuner.freeze_vit, aligner=config.tuner.freeze_aligner)
    labels = sorted({item.desc for record in train_records for item in record.objects})
    train = _build_source(config, model, train_records, config.custom.train_jsonl, labels)
    val = None if val_records is None else _build_source(config, model, val_records, config.custom.val_jsonl, labels)
    train.check(name="training data", progress=progress)
    if val is not None:
        val.check(name="validation data", progress=progress)
    if training.save_strategy != "no":
        check_free_space(training.output_dir, _BYTES_PER_PARAMETER * sum(size.total for size in sizes))
    schedule = StepSchedule(
        num_samples=len(train), samples_per_step=shape.samples_per_step, seed=_data_seed(config), drop_last=bool(_extra(config, "dataloader_drop_last", False))
    )
    num_steps = training.max_steps if training.max_steps > 0 else math.ceil((training.num_train_epochs or 0) * schedule.steps_per_epoch)
    return Stage1Parts(model, sizes, train, val, schedule, shape, num_steps, resume)


def build_trainer(config: TrainConfig, parts: Stage1Parts, *, folder: Path, progress: Progress, process: PartialState) -> tuple[StepTrainer, StepLoader]:
    """The trainer with everything it calls, and its loader, which the caller closes."""
    training, model = config.training, parts.loaded_model
    collator = PaddedCollator(
        pad_token_id=_pad_token(model), image_token_id=int(model.model.config.image_token_id), merge_size=int(model.processor.image_processor.merge_size)
    )
    callbacks: list[Any] = [EpochCallback(parts.schedule.steps_per_epoch), RunLogCallback(RunLog(folder / run_folder.LOG_NAME)), ProgressCallback(progress)]
    if "tensorboard" in reporters(training.hf_arguments()):
        board = TensorBoardCallback()
        board.logging_dir = str(training.logging_dir or folder / "runs")
        callbacks.append(board)
    ranks = {"rank": process.process_index, "world_size": process.num_processes}
    trainer = StepTrainer(
        model=model.model,
        args=build_arguments(training.hf_arguments(), run_folder=folder),
        objective=Stage1Objective(model.coord_vocab.ids, weights=_loss_weights(config), by_token_type=config.custom.token_type_metrics.enabled),
        write_model=lambda _, path: save_checkpoint(model, path),
        eval_packs=None if parts.val is None else EvalPackList(parts.val, collator=collator, per_pack=training.per_device_eval_batch_size, **ranks),
        callbacks=callbacks,
    )
    loader = StepLoader(
        parts.train,
        schedule=parts.schedule,
        collator=collator,
        per_pack=parts.shape.per_pack,
        current_step=lambda: trainer.next_step,
        num_threads=max(1, training.dataloader_num_workers),
        **ranks,
    )
    trainer.loader = loader
    return trainer, loader


def _read(config: TrainConfig, path: Path | None, *, limit: int) -> list[Record]:
    assert path is not None, "the configuration requires it"
    records = read_records(path, coord_space=config.data.coord_space, limit=limit, dataset=path.stem)
    if not records:
        raise DataError("there are no records", where=str(path), fix="check the file")
    if not config.custom.coord_tokens.skip_bbox_norm and any(record.coord_space != "pixel" for record in records):
        raise ConfigError(
            f"{path} already holds bins, which would be normalized once more", where="custom.coord_tokens.skip_bbox_norm", fix="remove it or set it to true"
        )
    return [to_norm1000(record) for record in records]


def _build_source(config: TrainConfig, model: LoadedModel, records: Sequence[Record], path: Path | None, labels: Sequence[str]) -> SegmentSource:
    assert path is not None, "the configuration requires it"
    custom, data, template = config.custom, config.data, config.template
    settings = SampleSettings(
        ordering=custom.object_ordering,
        field_order=custom.object_field_order,
        coord_mode="coord" if custom.coord_tokens.enabled else "text",
        kinds=data.geometry_kinds,
        prompt_labels=data.prompt_labels,
        max_length=config.global_max_length,
        truncation=template.truncation_strategy,
        min_pixels=template.min_pixels,
        max_pixels=template.max_pixels,
        seed=_data_seed(config),
    )
    return SegmentSource(
        records,
        image_root=path.parent,
        encoder=PromptEncoder(model.processor),
        tokenizer=model.tokenizer,  # pyright: ignore[reportArgumentType]
        coord_vocab=model.coord_vocab,
        settings=settings,
        labels=labels,
    )


def _loss_weights(config: TrainConfig) -> CoordLossWeights | None:
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


def _start_run(loaded: Loaded[TrainConfig], parts: Stage1Parts, *, argv: Sequence[str], process: PartialState, progress: Progress) -> Path:
    """The run folder with its metadata: a new one, or the one that goes on. Rank 0 writes, all learn its path."""
    shared: list[Any] = [None]
    if process.is_main_process:
        shared[0] = str(_open_run_folder(loaded, parts, argv=argv, world_size=process.num_processes, progress=progress))
    broadcast_object_list(shared)
    return Path(shared[0])


def _open_run_folder(loaded: Loaded[TrainConfig], parts: Stage1Parts, *, argv: Sequence[str], world_size: int, progress: Progress) -> Path:
    training = loaded.config.training
    facts = _facts(loaded, parts, argv=argv, world_size=world_size)
    run = run_folder.run_of(parts.resume) if parts.resume else None
    if run is not None and parts.resume is not None:
        step = run_folder.read_step(parts.resume)
        RunLog(run / run_folder.LOG_NAME).rewind(step)
        changed = add_resume(run / run_folder.METADATA_NAME, facts, checkpoint=parts.resume, step=step)
        progress.say(f"resuming {run} after step {step}" + (f"; changed since then: {', '.join(changed)}" if changed else ""))
        return run
    folder = run_folder.create_run_folder(training.output_dir, training.run_name)
    write_metadata(folder / run_folder.METADATA_NAME, facts)
    shape, trainable = parts.shape, sum(part.trainable for part in parts.parts)
    progress.say(f"run folder: {folder}")
    progress.say(
        f"{parts.num_steps} steps of {shape.samples_per_step} samples ({shape.packs_per_step} forwards of {shape.per_pack} on {world_size} device"
        f"{'s' if world_size > 1 else ''}), {len(parts.train)} records, {trainable / 1e6:.2f} M trainable parameters"
    )
    return folder


def _facts(loaded: Loaded[TrainConfig], parts: Stage1Parts, *, argv: Sequence[str], world_size: int) -> RunFacts:
    config, model = loaded.config, parts.loaded_model
    prompt = parts.train.prompt(parts.train.records[0], epoch=0)
    files = {"train": config.custom.train_jsonl, "val": config.custom.val_jsonl if parts.val is not None else None}
    details = {
        "model": {"path": str(model.path), "attn_requested": model.attn_requested, "attn_used": model.attn_used},
        "parameters": {part.name: {"total": part.total, "trainable": part.trainable} for part in parts.parts},
        "data": {
            name: {"path": str(path), "sha256": file_sha256(path), "records": len(parts.train if name == "train" else parts.val or ())}
            for name, path in files.items()
            if path is not None
        },
        "prompt": {"system": prompt.system, "user": prompt.user},
        "batch": {
            "effective_batch_size": parts.shape.samples_per_step,
            "per_device_train_batch_size": parts.shape.per_pack,
            "gradient_accumulation_steps": parts.shape.packs_per_step,
            "steps": parts.num_steps,
            "steps_per_epoch": parts.schedule.steps_per_epoch,
        },
    }
    return RunFacts(
        config_path=loaded.path,
        config_files=[(source.path, source.sha256) for source in loaded.files],
        resolved_config=loaded.resolved(),
        overrides=loaded.overrides,
        argv=argv,
        world_size=world_size,
        seeds={"seed": config.training.seed, "data_seed": _data_seed(config)},
        details=details,
    )


def _find_resume(config: TrainConfig) -> Path | None:
    wanted = config.training.resume_from_checkpoint
    if not wanted:
        return None
    if wanted is True:
        return run_folder.find_resume_checkpoint(config.training.output_dir, config.training.run_name)
    return run_folder.check_resume_checkpoint(Path(wanted))


def _write_final(trainer: StepTrainer, config: TrainConfig, parts: Stage1Parts, folder: Path) -> Path | None:
    """The best checkpoint's model when the best was loaded at the end, else the last one's."""
    if config.training.save_strategy == "no":
        return None
    best, last = trainer.state.best_model_checkpoint, folder / f"checkpoint-{trainer.state.global_step}"
    if trainer.args.load_best_model_at_end and best is not None:
        return link_model(Path(best), folder / run_folder.FINAL_NAME)
    if last.is_dir():
        return link_model(last, folder / run_folder.FINAL_NAME)
    return save_checkpoint(parts.loaded_model, folder / run_folder.FINAL_NAME)


def _data_seed(config: TrainConfig) -> int:
    seed = _extra(config, "data_seed", None)
    return config.training.seed if seed is None else int(seed)


def _extra(config: TrainConfig, name: str, default: Any) -> Any:
    """A passed-through training setting that the recipe reads."""
    return (config.training.model_extra or {}).get(name, default)


def _pad_token(model: LoadedModel) -> int:
    """Any id will do: padding is masked and predicts nothing."""
    pad = model.tokenizer.pad_token_id
    return 0 if pad is None else int(pad)  # pyright: ignore[reportArgumentType]
