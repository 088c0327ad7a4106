"""What is wrong between the settings of a Stage-2 file, or of Stage-2 sections in a file that is none. Said before anything is opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordexp.config.sections import KeyProblem

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


def _ab_problems(config: TrainConfig) -> Iterator[KeyProblem]:
    section = config.stage2_ab
    if section is None:
        return
    if config.data.geometry_kinds != ("bbox_2d",):
        yield KeyProblem("data.geometry_kinds", "stage2_ab_training decodes boxes only", "set it to [bbox_2d], or use rollout_matching_sft")
    channel = section.channel_b
    if channel.fn_position == "sorted" and config.custom.object_ordering != "sorted":
        yield KeyProblem("stage2_ab.channel_b.fn_position", "is sorted, and custom.object_ordering is not", "set fn_position: tail, or object_ordering: sorted")
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
