"""Stage-2: training on the model's own answers. What is particular to it: how answers are made, what is taught in them, and which step is of which channel.

Checkpoint, data, run folder and the end of a run are those of Stage-1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from coordexp.batching.plan import plan_padded
from coordexp.batching.post_rollout import pack_rollouts
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.config.rollout import RolloutMatchingSection
from coordexp.config.stage2_ab import Stage2ABSection
from coordexp.config.train import TrainConfig
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import NUM_BATCHES
from coordexp.losses.coordinates import CoordLossWeights
from coordexp.losses.slots import SlotLossWeights
from coordexp.models.load import placeholder_ids
from coordexp.recipes.generating import rollout_generation
from coordexp.recipes.rollouts import desc_gate, desc_monitor, match_settings, target_settings
from coordexp.recipes.stage1_data import data_seed
from coordexp.recipes.stage1_packing import build_collator
from coordexp.recipes.stage1_parts import Stage1Parts, loss_weights, row_function
from coordexp.recipes.stage2_async import RolloutEngine, async_progress, build_async_rollouts, is_async
from coordexp.recipes.stage2_colocate import build_colocated_engine
from coordexp.recipes.stage2_servers import build_server_engine
from coordexp.rollout.producer import RolloutProducer, RolloutReader
from coordexp.training.async_loader import AsyncLoader
from coordexp.training.channels import ChannelSchedule
from coordexp.training.engine_sync import LearnerEngine
from coordexp.training.offload import RolloutRoom
from coordexp.training.rollout_dumps import DUMP_FOLDER, RolloutDumper
from coordexp.training.rollout_eval import RolloutEval
from coordexp.training.rollout_rounds import Dump, RolloutRounds, SegmentPacker
from coordexp.training.schedules import MappedSchedule, Schedule, StepSchedule
from coordexp.training.stage2_loader import RolloutSteps, Stage2Loader
from coordexp.training.stage2_objective import ChannelObjectives, SoftContext, Stage2Objective
from coordexp.training.step_loader import StepLoader

_SERVER_WINDOW = 128
"""Prompts of an evaluation that are sent to rollout servers together."""


def rollout_section(config: TrainConfig) -> RolloutMatchingSection:
    """The section, or its defaults."""
    return config.rollout or RolloutMatchingSection()


def channel_schedule(config: TrainConfig) -> ChannelSchedule:
    """Which steps are rollouts; all of them for `rollout_matching_sft`."""
    return ChannelSchedule(config.stage2_ab.schedule.b_ratio if config.stage2_ab is not None else 1.0)


def build_objective(config: TrainConfig, parts: Stage1Parts) -> ChannelObjectives:
    """The losses of both channels."""
    coord_ids, rows = parts.loaded_model.coord_vocab.ids, row_function(config)
    section = config.stage2_ab
    if section is None:
        matching = SlotLossWeights(distribution=loss_weights(config) or CoordLossWeights())
        return ChannelObjectives({"B": Stage2Objective(coord_ids, weights=matching, rows=rows)}, by_channel=False)
    weights = slot_weights(config, section)
    context = SoftContext(iterations=section.n_softctx_iter, grad_mode=section.softctx_grad_mode, temperature=section.softctx_temperature)
    return ChannelObjectives(
        {
            "A": Stage2Objective(coord_ids, weights=weights, soft_context=context, rows=rows),
            "B": Stage2Objective(coord_ids, weights=weights, reduction=section.channel_b.geometry_reduction, rows=rows),
        },
        by_channel=True,
    )


def slot_weights(config: TrainConfig, section: Stage2ABSection) -> SlotLossWeights:
    """Of both channels."""
    targets = config.custom.coord_soft_ce_w1
    return SlotLossWeights(
        distribution=CoordLossWeights(
            soft_ce=section.coord_soft_ce_weight,
            w1=section.coord_w1_weight,
            ce=section.coord_ce_weight,
            gate=section.coord_gate_weight,
            temperature=targets.temperature,
            target_sigma=targets.target_sigma,
            target_truncate=targets.target_truncate,
        ),
        coord_el1=section.coord_el1_weight,
        coord_ehuber=section.coord_ehuber_weight,
        coord_entropy=section.coord_entropy_weight,
        bbox_smoothl1=section.bbox_smoothl1_weight,
        bbox_ciou=section.bbox_ciou_weight,
        beta=section.bbox_smoothl1_beta,
    )


def build_engine(config: TrainConfig, parts: Stage1Parts, *, say: Callable[[str], None], rank: int = 0, world_size: int = 1) -> RolloutEngine:
    """What makes the rollouts of a run.

    Raises:
        UserError: a rollout server, or vLLM in this process, cannot be used.
    """
    section = rollout_section(config)
    if section.rollout_backend == "vllm" and section.vllm.mode == "colocate":
        return build_colocated_engine(section, parts, use_cpu=config.training.use_cpu, say=say, world_size=world_size)
    if section.rollout_backend == "vllm":
        return build_server_engine(section, parts, say=say, rank=rank, world_size=world_size)
    return RolloutEngine(HfBackend(parts.loaded_model, batch_size=section.rollout_infer_batch_size))


def build_reader(config: TrainConfig, parts: Stage1Parts, *, say: Callable[[str], None], engine: RolloutEngine | None = None) -> RolloutReader:
    """Answers of the model in training, read and matched."""
    section, model = rollout_section(config), parts.loaded_model
    engine = engine or build_engine(config, parts, say=say)
    return RolloutReader(
        engine.backend,
        tokenizer=TextTokenizer.of(model.tokenizer),  # pyright: ignore[reportArgumentType]
        coord_vocab=model.coord_vocab,
        generation=rollout_generation(section),
        forbidden_ids=placeholder_ids(model),
        matching=match_settings(section),
        allow_poly="poly" in config.data.geometry_kinds,
        monitor=desc_monitor(section, say=say),
    )


def build_packer(config: TrainConfig, parts: Stage1Parts) -> SegmentPacker:
    """Rows of `global_max_length`, or padded batches."""
    if config.training.packing:
        assert config.global_max_length is not None, "the configuration requires it"
        return partial(pack_rollouts, row_length=config.global_max_length)
    return partial(plan_padded, per_pack=parts.shape.per_pack)


def build_loader(
    config: TrainConfig,
    parts: Stage1Parts,
    ground_truth: StepLoader,
    reader: RolloutReader,
    *,
    engine: RolloutEngine,
    room: RolloutRoom,
    current_step: Callable[[], int],
    say: Callable[[str], None],
    dump: Dump | None,
    rank: int,
    world_size: int,
) -> Stage2Loader | AsyncLoader:
    """What the trainer pulls from."""
    channels, section = channel_schedule(config), config.stage2_ab
    schedule, count = _round_schedule(config, parts)
    rounds = RolloutRounds(
        parts.train,
        RolloutProducer(reader, settings=target_settings(config), desc_gate=desc_gate(section, say=say) if section is not None else None),
        schedule=schedule,
        packer=build_packer(config, parts),
        seed=config.training.seed,
        rank=rank,
        world_size=world_size,
        dump=dump,
        on_error=parts.skips,
    )
    collator = build_collator(config, parts.loaded_model, is_packed=config.training.packing)
    shared: dict[str, Any] = {
        "channels": channels,
        "steps_per_epoch": parts.schedule.steps_per_epoch,
        "samples_after": lambda num_a, num_b: _samples_after(parts.schedule, num_a, count) + _samples_after(schedule, num_b, count),
        "current_step": current_step,
    }
    row_length = config.global_max_length if config.training.packing else None
    if is_async(config):
        assert not isinstance(engine.servers, LearnerEngine | None), "the configuration requires servers"
        rollouts = build_async_rollouts(config, parts, rounds, engine.servers, channels=channels, say=say, rank=rank, world_size=world_size)
        num_b = async_progress(parts, channels=channels).num_b
        return AsyncLoader(ground_truth, rollouts, collator=collator, row_length=row_length, num_b=num_b, **shared)
    steps = RolloutSteps(rounds, collator=collator, row_length=row_length, is_ab=section is not None, world_size=world_size, room=room)
    return Stage2Loader(ground_truth if channels.b_ratio < 1 else None, steps, is_ab=section is not None, **shared)


def _round_schedule(config: TrainConfig, parts: Stage1Parts) -> tuple[Schedule, int]:
    """(the samples of each round of rollouts, samples of an epoch)."""
    section, mixture = config.stage2_ab, parts.data.mixture
    num_samples = (section.channel_b.rollouts_per_step if section is not None else None) or parts.shape.samples_per_step
    count = len(parts.train) if mixture is None else len(mixture)
    # another order than that of Channel A: the seed of a stream of its own
    own = StepSchedule(num_samples=count, samples_per_step=min(num_samples, count), seed=data_seed(config) + 1)
    return (own if mixture is None else MappedSchedule(own, mixture.epoch)), count


def _samples_after(schedule: Schedule, num_steps: int, num_samples: int) -> int:
    """Samples of the first steps; inside an epoch of packed rows in proportion to its steps."""
    schedule = schedule.schedule if isinstance(schedule, MappedSchedule) else schedule
    epochs, position = divmod(num_steps, schedule.steps_per_epoch)
    in_order = position * schedule.groups_per_step if isinstance(schedule, StepSchedule) else round(position * num_samples / schedule.steps_per_epoch)
    return epochs * num_samples + min(in_order, num_samples)


def build_dump(config: TrainConfig, parts: Stage1Parts, reader: RolloutReader, *, folder: Path, say: Callable[[str], None], rank: int) -> Dump | None:
    """Writes rollouts for people into the run folder; None on the other ranks, and when no dump is asked for."""
    section, source = rollout_section(config).dump, parts.train
    if rank != 0 or section.every_steps == 0:
        return None
    dumper = RolloutDumper(
        folder / DUMP_FOLDER,
        every_steps=section.every_steps,
        num_samples=section.num_samples,
        tokenizer=reader.tokenizer,
        picture_of=lambda task: source.picture(task.index, epoch=task.epoch),
        run_name=config.training.run_name,
        say=say,
    )
    return lambda rollouts, step: dumper.offer(rollouts, step=step)


def build_rollout_eval(config: TrainConfig, parts: Stage1Parts, reader: RolloutReader, *, rank: int, world_size: int) -> RolloutEval | None:
    """Evaluation by rollouts on the validation set."""
    if parts.val is None:
        return None
    section = rollout_section(config)
    # servers batch by themselves, and want enough to do
    window = NUM_BATCHES * section.rollout_infer_batch_size if section.rollout_backend == "hf" else max(section.rollout_infer_batch_size, _SERVER_WINDOW)
    ranks = {"rank": rank, "world_size": world_size}
    return RolloutEval(parts.val, reader, num_records=len(parts.val), seed=config.training.seed, window=window, on_error=parts.skips, **ranks)
