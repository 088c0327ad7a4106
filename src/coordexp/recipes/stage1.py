"""Stage-1: supervised fine-tuning on coordinate slots. Read top to bottom: everything is built and checked first, the run folder comes last."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.disk import DiskErrors
from coordexp.recipes.stage1_data import data_facts, data_seed, describe_data
from coordexp.recipes.stage1_packing import build_collator, build_eval_packs, build_pack_maker, describe_packing, packing_facts
from coordexp.recipes.stage1_parts import Stage1Parts, detection_eval, prepare_stage1, stage1_objective
from coordexp.recipes.stage1_tuner import ADAPTER_NAME, checkpoint_writer, describe_adapter, part_rates, write_final
from coordexp.recipes.stage2 import build_dump, build_engine, build_loader, build_objective, build_reader, build_rollout_eval, rollout_section
from coordexp.recipes.stage2_async import RolloutEngine, evaluate_current_policy
from coordexp.recipes.stage2_room import build_room
from coordexp.training import run_folder
from coordexp.training.arguments import build_arguments, reporters
from coordexp.training.async_loader import AsyncLoader, AsyncProgressCallback
from coordexp.training.callbacks import CpuClockCallback, EpochCallback, ProgressCallback, RunLogCallback
from coordexp.training.detection import DetectionEval
from coordexp.training.faults import SkippedRecord, describe_skipped, merge_skipped
from coordexp.training.metadata import RunFacts, add_resume, write_metadata
from coordexp.training.ranks import check_devices, explain_lost_rank, gather_objects
from coordexp.training.run_log import RunLog
from coordexp.training.selection import EarlyStop, SaveDelay
from coordexp.training.stage2_loader import Stage2Loader
from coordexp.training.step_loader import StepLoader
from coordexp.training.summary import SUMMARY_NAME, RunSummary, write_summary
from coordexp.training.trainer import StepTrainer
from coordexp.types.files import claim
from coordexp.types.progress import NoProgress, Progress


def run_stage1(loaded: Loaded[TrainConfig], *, argv: Sequence[str] = (), progress: Progress | None = None) -> Path:
    """Train, and return the run folder. Its `final` is a checkpoint for inference (none with `training.save_strategy: no`).

    Raises:
        UserError: whatever can be wrong with settings, data, checkpoint or output; nothing was written then.
    """
    disable_progress_bar()
    process = _join_process_group(loaded.config)
    progress = (progress or NoProgress()) if process.is_main_process else NoProgress()
    config = loaded.config
    parts = prepare_stage1(config, world_size=process.num_processes, progress=progress)
    # read now: the checkpoint may be gone when the run ends (training.save_total_limit)
    first_step = run_folder.read_step(parts.resume) if parts.resume else 0
    if parts.resume is not None and first_step >= parts.num_steps:
        return _finish_resumed(parts.resume, parts.num_steps, config=config, process=process, progress=progress)
    with contextlib.ExitStack() as claims:
        return _run(loaded, parts, argv=argv, first_step=first_step, process=process, progress=progress, claims=claims)


def _run(
    loaded: Loaded[TrainConfig],
    parts: Stage1Parts,
    *,
    argv: Sequence[str],
    first_step: int,
    process: PartialState,
    progress: Progress,
    claims: contextlib.ExitStack,
) -> Path:
    """The run folder is ours until `claims` ends."""
    config = loaded.config
    ranks = {"rank": process.process_index, "world_size": process.num_processes}
    engine = None if config.custom.trainer_variant is None else build_engine(config, parts, say=progress.say, **ranks)
    with contextlib.ExitStack() as ends:
        if engine is not None:
            ends.callback(engine.close)
        folder = _start_run(loaded, parts, argv=argv, process=process, progress=progress, claims=claims)
        trainer, loader = build_trainer(config, parts, folder=folder, progress=progress, process=process, engine=engine)
        ends.callback(loader.close)
        start = time.perf_counter()
        with DiskErrors(folder, fix="free space and resume with training.resume_from_checkpoint: true"), explain_lost_rank(world_size=process.num_processes):
            trainer.train(resume_from_checkpoint=str(parts.resume) if parts.resume else None)
    with DiskErrors(folder):
        final = _write_final(trainer, config, parts, folder, process=process, progress=progress)
    skipped = merge_skipped(gather_objects([] if parts.skips is None else parts.skips.records(), world_size=process.num_processes))
    if process.is_main_process:
        seconds = time.perf_counter() - start
        _finish(trainer, parts, folder, first_step=first_step, final=final, skipped=skipped, seconds=seconds, progress=progress)
    process.wait_for_everyone()
    return folder


def _join_process_group(config: TrainConfig) -> PartialState:
    """With the other processes of the run; how long an exchange between them may take is said here or never."""
    check_devices(os.environ, use_cpu=config.training.use_cpu, num_gpus=torch.cuda.device_count())
    seconds = config.training.hf_arguments().get("ddp_timeout")
    return PartialState(cpu=config.training.use_cpu, **({} if seconds is None else {"timeout": timedelta(seconds=seconds)}))


def build_trainer(
    config: TrainConfig, parts: Stage1Parts, *, folder: Path, progress: Progress, process: PartialState, engine: RolloutEngine | None = None
) -> tuple[StepTrainer, StepLoader | Stage2Loader | AsyncLoader]:
    """The trainer with everything it calls, and its loader, which the caller closes. `engine` makes the rollouts of Stage-2; None: that of the settings."""
    training, model = config.training, parts.loaded_model
    is_stage1 = config.custom.trainer_variant is None
    ranks = {"rank": process.process_index, "world_size": process.num_processes}
    engine = None if is_stage1 else engine or build_engine(config, parts, say=progress.say, **ranks)
    reader = None if engine is None else build_reader(config, parts, say=progress.say, engine=engine)
    evaluate = _detection(config, parts, say=progress.say, **ranks) if reader is None else build_rollout_eval(config, parts, reader, **ranks)
    room = None if engine is None else build_room(rollout_section(config).offload, parts, engine, optimizer=lambda: trainer.optimizer)
    trainer = StepTrainer(
        model=parts.tuned.trained,
        args=build_arguments(training.hf_arguments(), run_folder=folder, needs_metric=training.early_stopping_patience is not None),
        objective=stage1_objective(config, model) if is_stage1 else build_objective(config, parts),
        write_model=checkpoint_writer(model, parts.tuned),
        eval_packs=build_eval_packs(config, model, parts.val, parts.evaluation, on_error=parts.skips, **ranks) if is_stage1 else None,
        detect=evaluate if evaluate is None or room is None else lambda: evaluate_current_policy(evaluate, loader, room=room, step=trainer.next_step),
        step_metrics=None if is_stage1 else lambda: loader.take_metrics(),  # pyright: ignore[reportAttributeAccessIssue]
        part_rates=part_rates(config),
        callbacks=_callbacks(config, parts, folder=folder, progress=progress),
        save_delay_steps=training.save_delay_steps,
    )
    ground_truth = StepLoader(
        parts.train,
        schedule=parts.schedule,
        collator=build_collator(config, model, is_packed=training.packing),
        make_packs=build_pack_maker(config, parts.shape),
        current_step=lambda: trainer.next_step,
        num_threads=max(1, training.dataloader_num_workers),
        say=progress.say,
        on_error=parts.skips,
        **ranks,
    )
    loader: StepLoader | Stage2Loader | AsyncLoader = ground_truth
    if engine is not None and reader is not None and room is not None:
        dump = build_dump(config, parts, reader, folder=folder, say=progress.say, rank=process.process_index)
        given: dict[str, Any] = {"engine": engine, "room": room, "current_step": lambda: trainer.next_step, "say": progress.say, "dump": dump, **ranks}
        loader = build_loader(config, parts, ground_truth, reader, **given)
    if isinstance(loader, AsyncLoader):
        trainer.add_callback(AsyncProgressCallback(loader))
    trainer.loader = loader
    return trainer, loader


def _detection(config: TrainConfig, parts: Stage1Parts, *, say: Callable[[str], None], rank: int, world_size: int) -> DetectionEval | None:
    return None if parts.val is None else detection_eval(config, parts.loaded_model, parts.val, say=say, on_error=parts.skips, rank=rank, world_size=world_size)


def _callbacks(config: TrainConfig, parts: Stage1Parts, *, folder: Path, progress: Progress) -> list[Any]:
    training = config.training
    callbacks: list[Any] = [
        EpochCallback(parts.schedule.steps_per_epoch),
        CpuClockCallback(training.max_cpu_seconds),
        RunLogCallback(RunLog(folder / run_folder.LOG_NAME)),
        ProgressCallback(progress),
        SaveDelay(training.save_delay_steps),
    ]
    if training.early_stopping_patience is not None:
        callbacks.append(EarlyStop(training.early_stopping_patience, training.early_stopping_threshold))
    if "tensorboard" in reporters(training.hf_arguments()):
        board = TensorBoardCallback()
        board.logging_dir = str(training.logging_dir or folder / "runs")
        callbacks.append(board)
    return callbacks


def _start_run(
    loaded: Loaded[TrainConfig], parts: Stage1Parts, *, argv: Sequence[str], process: PartialState, progress: Progress, claims: contextlib.ExitStack
) -> Path:
    """The run folder with its metadata: a new one, or the one that goes on. Rank 0 writes, all learn its path."""
    shared: list[Any] = [None]
    if process.is_main_process:
        shared[0] = str(_open_run_folder(loaded, parts, argv=argv, world_size=process.num_processes, progress=progress, claims=claims))
    broadcast_object_list(shared)
    return Path(shared[0])


def _open_run_folder(
    loaded: Loaded[TrainConfig], parts: Stage1Parts, *, argv: Sequence[str], world_size: int, progress: Progress, claims: contextlib.ExitStack
) -> Path:
    training = loaded.config.training
    facts = _facts(loaded, parts, argv=argv, world_size=world_size)
    run = run_folder.run_of(parts.resume) if parts.resume else None
    if run is not None and parts.resume is not None:
        claims.enter_context(claim(run, who="training", fix="wait for its end, or start a new run without training.resume_from_checkpoint"))
        step = run_folder.read_step(parts.resume)
        RunLog(run / run_folder.LOG_NAME).rewind(step)
        changed = add_resume(run / run_folder.METADATA_NAME, facts, checkpoint=parts.resume, step=step)
        progress.say(f"resuming {run} after step {step}" + (f"; changed since then: {', '.join(changed)}" if changed else ""))
        return run
    folder = run_folder.create_run_folder(training.output_dir, training.run_name)
    claims.enter_context(claim(folder, who="training", fix="start again"))
    write_metadata(folder / run_folder.METADATA_NAME, facts)
    shape, trainable = parts.shape, parts.tuned.num_trainable
    unit = "rows" if training.packing else "samples"
    progress.say(f"run folder: {folder}")
    progress.say(
        f"{parts.num_steps} steps of {shape.samples_per_step} {unit} ({shape.packs_per_step} forwards of {shape.per_pack} on {world_size} device"
        f"{'s' if world_size > 1 else ''}), {len(parts.train)} records, {trainable / 1e6:.2f} M trainable parameters"
    )
    for sentence in (*describe_data(parts.data), *describe_packing(parts.schedule, parts.evaluation)):
        progress.say(sentence)
    return folder


def _facts(loaded: Loaded[TrainConfig], parts: Stage1Parts, *, argv: Sequence[str], world_size: int) -> RunFacts:
    config, model = loaded.config, parts.loaded_model
    prompt = parts.train.prompt(parts.train.records[0], epoch=0)
    details = {
        "model": {"path": str(model.path), "attn_requested": model.attn_requested, "attn_used": model.attn_used},
        "parameters": {part.name: {"total": part.total, "trainable": part.trainable} for part in parts.tuned.sizes},
        "adapter": describe_adapter(parts.tuned.adapter),
        "data": data_facts(parts.data, parts.train, parts.val),
        "prompt": {"system": prompt.system, "user": prompt.user},
        "batch": {
            "effective_batch_size": parts.shape.samples_per_step,
            "per_device_train_batch_size": parts.shape.per_pack,
            "gradient_accumulation_steps": parts.shape.packs_per_step,
            "steps": parts.num_steps,
            "steps_per_epoch": parts.schedule.steps_per_epoch,
        },
        "packing": packing_facts(parts.schedule, parts.evaluation),
    }
    return RunFacts(
        config_path=loaded.path,
        config_files=[(source.path, source.sha256) for source in (*loaded.files, *(parts.data.fusion.files if parts.data.fusion else ()))],
        resolved_config=loaded.resolved(),
        overrides=loaded.overrides,
        argv=argv,
        world_size=world_size,
        seeds={"seed": config.training.seed, "data_seed": data_seed(config)},
        details=details,
    )


def _finish_resumed(checkpoint: Path, num_steps: int, *, config: TrainConfig, process: PartialState, progress: Progress) -> Path:
    """The run of a checkpoint that has all steps behind it; its `final` is written when the run was killed just before."""
    progress.say(f"{checkpoint} has all {num_steps} steps behind it: nothing to train")
    run = run_folder.run_of(checkpoint)
    if process.is_main_process and run is not None and not (run / run_folder.FINAL_NAME).exists():
        write_final(checkpoint, run / run_folder.FINAL_NAME, config=config, progress=progress)
    process.wait_for_everyone()
    return run or checkpoint


def _finish(
    trainer: StepTrainer,
    parts: Stage1Parts,
    folder: Path,
    *,
    first_step: int,
    final: Path | None,
    skipped: list[SkippedRecord],
    seconds: float,
    progress: Progress,
) -> None:
    """The summary of the run, on rank 0."""
    state = trainer.state
    summary = RunSummary(
        steps=state.global_step,
        planned_steps=parts.num_steps,
        first_step=first_step,
        seconds=round(seconds, 1),
        has_stopped_early=any(isinstance(callback, EarlyStop) and callback.has_stopped for callback in trainer.callback_handler.callbacks),
        best_metric=trainer.args.metric_for_best_model,
        best_value=state.best_metric,
        best_checkpoint=Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None,
        final=final.name if final else None,
        skipped=skipped,
    )
    write_summary(folder, summary)
    if summary.has_stopped_early:
        progress.say(f"stopped early: {summary.best_metric} has not become better than {summary.best_value:.4g} any more")
    if skipped:
        progress.say(f"warning: {describe_skipped(skipped)}; all of them: {folder / SUMMARY_NAME}")
    progress.say(f"trained to step {state.global_step} in {seconds:.0f} s" + (f"; checkpoint for inference: {final}" if final else ""))


def _write_final(trainer: StepTrainer, config: TrainConfig, parts: Stage1Parts, folder: Path, *, process: PartialState, progress: Progress) -> Path | None:
    """The best checkpoint's model when the best was loaded at the end, else the last one's."""
    if config.training.save_strategy == "no":
        return None
    # the last checkpoint is complete on every rank only now
    process.wait_for_everyone()
    final = folder / run_folder.FINAL_NAME
    best, last = trainer.state.best_model_checkpoint, folder / f"checkpoint-{trainer.state.global_step}"
    source: Path | None = last
    if trainer.args.load_best_model_at_end and best is not None:
        source = Path(best)
    elif not last.is_dir():
        # all ranks take part, as their weights may be split
        source = None if parts.tuned.adapter is None else folder / ADAPTER_NAME
        trainer.save_model(str(source or final))
    if process.is_main_process and source is not None:
        write_final(source, final, config=config, progress=progress)
    process.wait_for_everyone()
    return final
