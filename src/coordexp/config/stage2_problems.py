"""What is wrong between the settings of a Stage-2 file, or of Stage-2 sections in a file that is none. Said before anything is opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordexp.config.sections import KeyProblem
from coordexp.config.stage2_ab import AsyncSection

if TYPE_CHECKING:
    from coordexp.config.train import TrainConfig


def stage2_problems(config: TrainConfig) -> Iterator[KeyProblem]:
    """Everything that concerns training on rollouts."""
    variant = config.custom.trainer_variant
    section = "rollout_matching" if config.rollout_matching is not None else "custom.extra.rollout_matching"
    if config.rollout_matching is not None and config.custom.extra.rollout_matching is not None:
        yield KeyProblem("rollout_matching", "is the same section as custom.extra.rollout_matching", "give one of them")
    if variant != "stage2_ab_training" and config.stage2_ab is not None:
        yield KeyProblem("stage2_ab", "is read only by custom.trainer_variant: stage2_ab_training", "set the trainer variant, or remove the section")
    if variant == "stage2_ab_training" and config.stage2_ab is None:
        yield KeyProblem("stage2_ab", "is required by custom.trainer_variant: stage2_ab_training", "add the section with schedule.b_ratio")
    if variant is None:
        if config.rollout is not None:
            yield KeyProblem(section, "is read only by trainers on rollouts", "set custom.trainer_variant, or remove the section")
        return
    if config.rollout is not None:
        yield from config.rollout.problems(section)
    yield from _data_problems(config)
    if variant == "stage2_ab_training":
        yield from _ab_problems(config)


def _data_problems(config: TrainConfig) -> Iterator[KeyProblem]:
    if not config.custom.coord_tokens.enabled:
        yield KeyProblem("custom.coord_tokens.enabled", "is false, and rollouts are read by coordinate tokens", "set it to true")
    if config.training.eval_packing:
        yield KeyProblem("training.eval_packing", "has no effect: evaluation of Stage-2 has no teacher-forced pass", "remove it")
    if config.custom.eval_detection.enabled:
        yield KeyProblem("custom.eval_detection.enabled", "has no effect: evaluation of Stage-2 is rollouts (eval_rollout_*)", "remove it")
    if config.data.streaming:
        yield KeyProblem("data.streaming", "rollouts need samples by number", "remove it")
    if not config.custom.coord_soft_ce_w1.enabled and config.custom.trainer_variant == "rollout_matching_sft":
        yield KeyProblem("custom.coord_soft_ce_w1.enabled", "is false, and rollout_matching_sft has no other loss on coordinates", "set it to true")


def _async_problems(config: TrainConfig, section: AsyncSection) -> Iterator[KeyProblem]:
    rollout, where = config.rollout, "stage2_ab.channel_b.async"
    if rollout is None or rollout.rollout_backend != "vllm" or rollout.vllm.mode != "server":
        fix = "set rollout_matching.rollout_backend: vllm and vllm.mode: server, or channel_b.mode: sync"
        yield KeyProblem("stage2_ab.channel_b.mode", "is async, which needs rollouts by vLLM servers", fix)
    elif rollout.vllm.sync.mode != "full":
        yield KeyProblem("rollout_matching.vllm.sync.mode", f"is {rollout.vllm.sync.mode}, and channel_b.mode: async sends all weights", "set it to full")
    if section.queue_limit < section.prefetch_target_packs:
        what = f"is {section.queue_limit}, less than prefetch_target_packs {section.prefetch_target_packs}: the queue could never hold what the actor aims at"
        yield KeyProblem(f"{where}.queue_limit", what, f"set it to at least {section.prefetch_target_packs}")
    needed = config.training.gradient_accumulation_steps
    if needed is not None and section.prefetch_target_packs < needed:
        yield KeyProblem(f"{where}.prefetch_target_packs", *too_few_packs(section.prefetch_target_packs, needed))


def too_few_packs(target: int, needed: int) -> tuple[str, str]:
    """(what is wrong, fix) when the actor aims at fewer packs than a step takes."""
    return f"is {target}, less than the {needed} packs that a step takes on each device (gradient_accumulation_steps)", f"set it to at least {needed}"


def _ab_problems(config: TrainConfig) -> Iterator[KeyProblem]:
    section = config.stage2_ab
    if section is None:
        return
    if config.data.geometry_kinds != ("bbox_2d",):
        yield KeyProblem("data.geometry_kinds", "stage2_ab_training decodes boxes only", "set it to [bbox_2d], or use rollout_matching_sft")
    channel = section.channel_b
    if channel.fn_position == "sorted" and config.custom.object_ordering != "sorted":
        yield KeyProblem("stage2_ab.channel_b.fn_position", "is sorted, and custom.object_ordering is not", "set fn_position: tail, or object_ordering: sorted")
    if channel.mode == "async":
        yield from _async_problems(config, channel.async_)
        if channel.async_.version_window == 0 and channel.async_.sync_every_steps == 1 and not channel.wait_for_b:
            what = "is 0 with a sync at every step and without wait_for_b: packs would be too old before any step could use them"
            yield KeyProblem("stage2_ab.channel_b.async.version_window", what, "set version_window: 1, or wait_for_b: true")
    weights = (
        section.bbox_smoothl1_weight,
        section.bbox_ciou_weight,
        section.coord_ce_weight,
        section.coord_soft_ce_weight,
        section.coord_w1_weight,
        section.coord_el1_weight,
        section.coord_ehuber_weight,
    )
    if not any(weights):
        yield KeyProblem(
            "stage2_ab", "no loss teaches coordinates: all weights are 0", "give bbox_smoothl1_weight, bbox_ciou_weight or coord_ce_weight a value"
        )
