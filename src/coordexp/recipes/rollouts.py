"""Sections of a training file as the rollout room takes them: matching, targets, text encoders."""

from __future__ import annotations

from collections.abc import Callable

from coordexp.config.rollout import RolloutMatchingSection
from coordexp.config.stage2_ab import Stage2ABSection
from coordexp.config.train import TrainConfig
from coordexp.rollout.desc import DescJudge
from coordexp.rollout.producer import MatchSettings, TargetSettings
from coordexp.semantics.encoder import LazyEncoder
from coordexp.semantics.protocol import TextEncoder
from coordexp.targets.rollout import RolloutTargetOptions
from coordexp.targets.supervision import rollout_matching_table, stage2_ab_table
from coordexp.targets.transport import TransportSettings
from coordexp.types.errors import BackendError


def match_settings(section: RolloutMatchingSection) -> MatchSettings:
    """How predictions and annotated objects are matched."""
    return MatchSettings(
        gate=section.maskiou_gate,
        top_k=section.candidate_top_k,
        fp_cost=section.fp_cost,
        fn_cost=section.fn_cost,
        iou=section.matching.iou,
        resolution=section.maskiou_resolution,
    )


def target_settings(config: TrainConfig) -> TargetSettings:
    """What a target keeps and teaches, by the trainer: `stage2_ab.channel_b` decides for AB, the contract alone for rollout_matching_sft."""
    rollout = config.rollout or RolloutMatchingSection()
    transport = TransportSettings(cost=rollout.ot_cost, epsilon=rollout.ot_epsilon, iterations=rollout.ot_iters)
    field_order = config.custom.object_field_order
    if config.stage2_ab is None:
        options = RolloutTargetOptions(field_order=field_order, transport=transport)
        return TargetSettings(table=rollout_matching_table(), options=options, max_length=config.global_max_length)
    channel = config.stage2_ab.channel_b
    return TargetSettings(
        table=stage2_ab_table(
            desc_ce_weight=config.stage2_ab.desc_ce_weight,
            desc_ce_weight_matched=channel.desc_ce_weight_matched,
            key_ce=channel.key_ce == "on",
            closure_ce=channel.closure_ce == "on",
        ),
        prefix=channel.prefix,
        cut_out_of_sequence_keys=channel.cut_out_of_sequence_keys,
        options=RolloutTargetOptions(
            field_order=field_order,
            missed_position=channel.fn_position,
            renumber_keys=channel.renumber_keys,
            cut_surplus=channel.cut_surplus,
            same_names=channel.matched_names == "same",
            drop_unmatched=channel.unmatched == "drop",
            struct_ce_multiplier=channel.drop_invalid_struct_ce_multiplier,
            transport=transport,
        ),
        max_length=config.global_max_length,
    )


def desc_monitor(section: RolloutMatchingSection, *, say: Callable[[str], None]) -> DescJudge | None:
    """The judge that the log asks; None: it is off."""
    monitor = section.desc_monitor
    if not monitor.enabled:
        return None
    encoder = None
    if monitor.semantic:
        without = "names are compared by their text alone (rollout/desc_sem_enabled is 0)"
        encoder = _open_encoder(monitor.model_name_or_path, monitor.revision, where="rollout_matching.desc_monitor", without=without, say=say)
    return DescJudge(encoder, threshold=monitor.threshold)


def desc_gate(section: Stage2ABSection, *, say: Callable[[str], None]) -> DescJudge | None:
    """The judge that lets names of matched objects be taught; None: the gate is off or without effect, or there is no encoder: only equal tokens are."""
    gate = section.channel_b.semantic_desc_gate
    if not gate.enabled:
        return None
    if section.channel_b.desc_ce_weight_matched == 0:
        say("warning: stage2_ab.channel_b.semantic_desc_gate has no effect: with desc_ce_weight_matched 0 no name of a matched object is taught")
        return None
    without = "only name tokens that equal the annotation are taught (stage2_ab/channel_b/semantic_desc_gate/is_active is 0)"
    encoder = _open_encoder(gate.model_name_or_path, gate.revision, where="stage2_ab.channel_b.semantic_desc_gate", without=without, say=say)
    return None if encoder is None else DescJudge(encoder, threshold=gate.threshold)


def _open_encoder(name: str, revision: str | None, *, where: str, without: str, say: Callable[[str], None]) -> TextEncoder | None:
    """None after one warning when it cannot be used on this machine. Its weights are read here, so that nothing is found missing in the middle of a run."""
    encoder = LazyEncoder(name, revision=revision)
    try:
        encoder.encode(["object"])
    except BackendError as error:
        say(f"warning: {where}: {error.what}; {without}")
        return None
    return encoder
