"""The keys of training on rollouts. Counts are sums, rates are quotients of two sums: packs, accumulation, steps and ranks give what one list would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from coordexp.metrics.specs import MetricSpec, RunKind
from coordexp.types.metrics import Reduction
from coordexp.types.rollouts import DropReason

STAGE2: Final = frozenset({RunKind.ROLLOUT_MATCHING, RunKind.STAGE2_AB})
STAGE2_AB: Final = frozenset({RunKind.STAGE2_AB})

DESC_SETTING: Final = "rollout_matching.desc_monitor.enabled"
ASYNC_SETTING: Final = "stage2_ab.channel_b.mode: async"
_SUM, _MEAN, _MAX, _LAST = Reduction.SUM, Reduction.MEAN, Reduction.MAX, Reduction.LAST

LENGTHS: Final = {
    "prompt_len": "prompt and image",
    "rollout_len": "the rollout, without its stop token",
    "prefix_len": "the model's own entries that the target keeps",
    "train_len": "the target: own entries, appended objects, closing brace, end",
    "append_len": "the target that are not the model's own entries",
    "encoded_len": "prompt and target together, as packed",
}
TERMS: Final = {
    "ce": "cross-entropy of tokens",
    "coord": "all terms on coordinate slots together",
    "coord_prefix": "the coordinate terms on matched objects of the prefix",
    "coord_tail": "the coordinate terms on appended objects",
    "coord_reg": "the coordinate terms that are not boxes: coord_ce, coord_el1, coord_ehuber, coord_entropy",
    "coord_ce": "cross-entropy on coordinate slots",
    "coord_el1": "expected distance on coordinate slots",
    "coord_ehuber": "expected Huber distance on coordinate slots",
    "coord_entropy": "entropy on coordinate slots",
    "bbox_smoothl1": "SmoothL1 of decoded boxes",
    "bbox_ciou": "CIoU of decoded boxes",
}
_Row = tuple[str, Reduction]

_TIMES: Final[Mapping[str, _Row]] = {
    "time/rollout_generate_s": ("seconds of generation, per rollout step and device", _MEAN),
    "time/rollout_parse_match_s": ("seconds of parsing and matching, per rollout step and device", _MEAN),
    "time/rollout_teacher_encode_s": ("seconds of making targets and segments, per rollout step and device", _MEAN),
    "time/post_rollout_pack_s": ("seconds of packing after the rollouts, per rollout step and device", _MEAN),
    "time/mask_build_s": ("seconds of collating packs with their supervision, per optimizer step and device", _MEAN),
    "time/forward_s": ("seconds of forwards and backwards, per optimizer step and device", _MEAN),
}
_GENERATION: Final[Mapping[str, _Row]] = {
    "rollout/gen_new_tokens_total": ("generated tokens", _SUM),
    "rollout/gen_new_tokens_mean": ("generated tokens per rollout", _MEAN),
    "rollout/gen_new_tokens_p90": ("generated tokens that 90 % of the rollouts do not exceed", Reduction.P90),
    "rollout/gen_new_tokens_p99": ("generated tokens that 99 % of the rollouts do not exceed", Reduction.P99),
    "rollout/gen_tokens_per_s": ("generated tokens per second of generation on a device", _MEAN),
    "rollout/do_sample": ("1: tokens are sampled", _LAST),
    "rollout/temperature": ("as set", _LAST),
    "rollout/top_p": ("as set", _LAST),
    "rollout/top_k": ("as set; -1: all", _LAST),
    "rollout/decode_greedy": ("1: greedy decoding", _LAST),
    "rollout/decode_beam": ("1: beam search", _LAST),
    "rollout/num_beams": ("beams; 1 without beam search", _LAST),
    "rollout/max_new_tokens": ("as set", _LAST),
    "rollout/repetition_penalty": ("as set; 1: none", _LAST),
    "rollout/backend_hf": ("1: transformers in process", _LAST),
    "rollout/backend_vllm": ("1: vLLM", _LAST),
    "rollout/seed_base": ("(training.seed + step * 1000003) & 0x7FFFFFFF of the last rollout step; request i has the seed seed_base + i", _LAST),
}
_PARSE: Final[Mapping[str, _Row]] = {
    "rollout/parse_dropped_invalid": ("entries that the strict parse dropped, for whatever reason", _SUM),
    "rollout/parse_dropped_ambiguous": ("entries whose coordinates could not be aligned with tokens", _SUM),
    "rollout/parse_truncated": ("rollouts that broke off", _SUM),
    "rollout/parse_truncated_rate": ("share of rollouts that broke off", _MEAN),
    "rollout/parse_obj_total": ("entries seen: valid, dropped and ambiguous", _SUM),
    "rollout/parse_obj_valid_frac": ("share of the entries that are valid objects", _MEAN),
    "rollout/parse_obj_drop_frac": ("share of the entries that were dropped or ambiguous", _MEAN),
    "rollout/sample_valid_pred_rate": ("share of rollouts with a valid object", _MEAN),
    "rollout/sample_any_match_rate": ("share of rollouts with a matched object", _MEAN),
}
_MATCH: Final[Mapping[str, _Row]] = {
    "rollout/gt_objects": ("annotated objects", _SUM),
    "rollout/valid_pred_objects": ("valid predicted objects", _SUM),
    "rollout/matched_for_supervision": ("matched objects whose slots are supervised in the target", _SUM),
    "rollout/excluded_from_supervision": ("matched objects whose slots are not: they are no longer in the target's prefix", _SUM),
    "rollout/excluded_rate": ("share of the matched objects that are excluded", _MEAN),
    "rollout/fp": ("predicted objects without a match", _SUM),
    "rollout/fn": ("annotated objects without a match", _SUM),
    "rollout/fn_appended": ("annotated objects that the target adds to the prefix", _SUM),
    "rollout/fp_per_sample": ("fp per rollout", _MEAN),
    "rollout/fn_per_sample": ("fn per rollout", _MEAN),
    "rollout/gt_per_sample": ("annotated objects per rollout", _MEAN),
    "rollout/pred_per_sample": ("valid predicted objects per rollout", _MEAN),
    "rollout/gating_rejections": ("candidate pairs below rollout_matching.maskiou_gate", _SUM),
    "rollout/gating_rejection_rate": ("share of the candidate pairs that are below the gate", _MEAN),
    "rollout/precision": ("matched / valid predicted objects", _MEAN),
    "rollout/recall": ("matched / annotated objects", _MEAN),
    "rollout/f1": ("2 matched / (predicted + annotated)", _MEAN),
    "rollout/match_rate": ("matched_for_supervision / annotated objects", _MEAN),
    "rollout/matched_maskiou_mean": ("mean IoU of the matched pairs", _MEAN),
    "rollout/matched_maskiou_count": ("matched pairs", _SUM),
}
DESC_KEYS: Final[Mapping[str, _Row]] = {
    "desc_pairs_total": ("matched pairs whose names were compared", _SUM),
    "desc_exact_acc_on_matched": ("share of those pairs with equal names (case, spaces and underscores aside)", _MEAN),
    "desc_sem_enabled": ("1: a text encoder compares names too; 0: there is none", _LAST),
    "desc_sem_acc_on_matched": ("share of those pairs whose names are equal or have a cosine of at least the threshold", _MEAN),
    "desc_sem_sim_mean": ("mean cosine of the names of those pairs; equal names count 1", _MEAN),
    "desc_sem_sim_count": ("pairs with a cosine", _SUM),
}
_TARGET: Final[Mapping[str, _Row]] = {
    "rollout/prefix_coord_targets_total": ("supervised coordinates of matched objects in the prefix", _SUM),
    "rollout/prefix_coord_targets_per_matched": ("the same per matched object", _MEAN),
    "rollout/tail_ignore_frac": ("share of the added tokens (appended objects, closing brace, end) that have neither cross-entropy nor a slot", _MEAN),
    "rollout/joins": ("places in targets where the model's own tokens meet added ones", _SUM),
    "rollout/noncanonical_join_rate": ("share of those places where the tokenizer itself would have cut the same text differently", _MEAN),
}
_PACKING: Final[Mapping[str, _Row]] = {
    "packing/post_rollout_fill": ("share of the rows of packs that is filled with tokens", _MEAN),
    "packing/post_rollout_segments": ("segments per pack", _MEAN),
    "packing/post_rollout_buffer": ("segments that wait for a pack after the step", _LAST),
    "packing/window_packs": ("packs of an optimizer step on a device", _MEAN),
    "packing/window_segments_total": ("segments in the packs", _SUM),
    "packing/window_avg_fill": ("share of the rows of an optimizer step that is filled with tokens", _MEAN),
    "train/samples_total": ("samples that were trained on", _SUM),
    "train/samples_seen": ("samples that were trained on since the start of the run", _MAX),
    "train/micro_steps": ("forwards of an optimizer step on a device", _MEAN),
}
_CHANNELS: Final[Mapping[str, _Row]] = {
    "stage2/channel_a": ("share of optimizer steps on Channel A", _MEAN),
    "stage2/channel_b": ("share of optimizer steps on Channel B", _MEAN),
    "stage2/invalid_rollout": ("rollouts without any append-ready prefix: all ground truth counts as missed", _SUM),
    "stage2/raw_rollouts": ("rollouts", _SUM),
    "stage2_ab/b_ratio_realized": ("share of Channel B among all optimizer steps of the run so far", _LAST),
    "stage2_ab/channel_b/strict_drop/N_valid_pred": ("valid predicted objects", _SUM),
    "stage2_ab/channel_b/strict_drop/N_drop_invalid": ("entries that the strict parse dropped", _SUM),
    "stage2_ab/channel_b/closure_supervision/N_drop": ("samples whose closing brace could not be located: all ground truth counts as missed", _SUM),
    "stage2_ab/channel_b/stop_neutral/N_skip": ("same value as stage2_ab/channel_b/closure_supervision/N_drop, an older name", _SUM),
    "stage2_ab/channel_b/semantic_desc_gate/is_active": ("1: a text encoder judges names; 0: the gate is off, or there is no encoder", _LAST),
}
_REASONS: Final = {
    DropReason.MISSING_DESC: "without a name",
    DropReason.MISSING_GEOM: "without geometry",
    DropReason.WRONG_ARITY: "with a wrong number of coordinates",
    DropReason.NON_COORD_TOKEN: "with a coordinate that is no coordinate token",
    DropReason.POLY_UNSUPPORTED: "that are polygons where only boxes are trained",
    DropReason.UNKNOWN_GEOM: "with a geometry of another name",
    DropReason.BBOX_INVALID: "that are boxes with swapped corners",
    DropReason.KEY_INVALID: "with a key that is not object_N, unknown fields, or broken off",
}
_ASYNC: Final[Mapping[str, _Row]] = {
    "policy_wants_b": ("share of steps for which the schedule wants Channel B", _MEAN),
    "step_kind_b": ("share of steps that ran Channel B", _MEAN),
    "b_ratio_realized": ("share of Channel B among all optimizer steps of the run so far", _LAST),
    "b_step_skipped_due_to_queue": ("share of steps that ran Channel A because not every device had enough fresh packs", _MEAN),
    "queue_depth": ("ready packs of a device, mean over steps and devices", _MEAN),
    "queue_limit": ("as set", _LAST),
    "prefetch_target_packs": ("as set", _LAST),
    "ver_current": ("version of the newest policy", _MAX),
    "ver_step": ("version of the packs of the last Channel B step", _MAX),
    "ver_lag": ("largest age in versions of a pack that was trained on", _MAX),
    "version_window": ("as set", _LAST),
    "drop_stale_total": ("packs dropped as too old since the start, on the device with the most", _MAX),
    "drop_oldest_total": ("packs that newer ones evicted since the start, on the device with the most", _MAX),
    "prefetch_success_total": ("packs made since the start, on the device with the most", _MAX),
    "prefetch_fail_total": ("failed rounds of the actor since the start, on the device with the most", _MAX),
    "prefetch_iter_total": ("rounds of the actor since the start, on the device with the most", _MAX),
    "prefetch_state": ("what the actor does, as a number; of the last device", _LAST),
    "prefetch_last_progress_s_ago": ("seconds since an actor last finished something, largest over devices", _MAX),
    "sync_in_progress": ("share of steps that met a weight sync", _MEAN),
    "infer_inflight": ("requests under way, mean over steps and devices", _MEAN),
    "is_prefetch_in_prepare_b": ("share of steps and devices whose actor was making packs", _MEAN),
    "is_prefetch_queue_full": ("share of steps and devices whose actor waited for room", _MEAN),
    "is_prefetch_no_segments": ("share of steps and devices whose actor had no segment to pack", _MEAN),
    "is_prefetch_error": ("share of steps and devices whose actor had failed", _MEAN),
}
_EVAL: Final[Mapping[str, _Row]] = {
    "rollout_precision": ("matched / valid predicted objects", _MEAN),
    "rollout_recall": ("matched / annotated objects", _MEAN),
    "rollout_f1": ("2 matched / (predicted + annotated); for metric_for_best_model", _MEAN),
    "rollout_pred_objects": ("valid predicted objects", _SUM),
    "rollout_gt_objects": ("annotated objects", _SUM),
    "rollout_matched": ("matched pairs", _SUM),
    "rollout_fp": ("predicted objects without a match", _SUM),
    "rollout_fn": ("annotated objects without a match", _SUM),
    "rollout_parse_truncated_rate": ("share of rollouts that broke off", _MEAN),
    "rollout_parse_dropped_invalid": ("entries that the strict parse dropped", _SUM),
    "rollout_parse_dropped_ambiguous": ("entries whose coordinates could not be aligned with tokens", _SUM),
    "rollout_sample_valid_pred_rate": ("share of rollouts with a valid object", _MEAN),
    "rollout_sample_any_match_rate": ("share of rollouts with a matched object", _MEAN),
    "rollout_matched_maskiou_mean": ("mean IoU of the matched pairs", _MEAN),
}


def _specs(
    rows: Mapping[str, _Row], *, kinds: frozenset[RunKind] = STAGE2, prefix: str = "", needs: str = "", evaluation: bool = False
) -> Iterator[MetricSpec]:
    for key, (meaning, reduction) in rows.items():
        yield MetricSpec(prefix + key, meaning, reduction, kinds, in_eval=evaluation, in_train=not evaluation, needs=needs)


def _lengths() -> Iterator[MetricSpec]:
    for name, words in LENGTHS.items():
        yield MetricSpec(f"rollout/{name}_mean", f"tokens of {words}, mean over samples", _MEAN, STAGE2)
        yield MetricSpec(f"rollout/{name}_p90", f"tokens of {words} that 90 % of the samples do not exceed", Reduction.P90, STAGE2)


def _terms(prefix: str, kinds: frozenset[RunKind], where: str) -> Iterator[MetricSpec]:
    for name, words in TERMS.items():
        yield MetricSpec(f"{prefix}/{name}", f"{words}: what it adds to the loss of a step, weighted, mean over {where}", _MEAN, kinds)


STAGE2_METRICS: Final = (
    *_specs(_TIMES),
    *_specs(_GENERATION),
    *_specs(_PARSE),
    *_specs(_MATCH),
    *_specs(DESC_KEYS, prefix="rollout/", needs=DESC_SETTING),
    *_specs(_TARGET),
    *_lengths(),
    *_specs(_PACKING),
    *_terms("loss", STAGE2, "steps"),
    *_specs({"time/offload_s": ("seconds of moving the learner out of the way of rollouts and back", _MEAN)}, needs="rollout_matching.offload.enabled"),
    *_specs({"time/weight_sync_s": ("seconds of handing the weights to vLLM, per sync", _MEAN)}, needs="rollout_matching.rollout_backend: vllm"),
)
STAGE2_AB_METRICS: Final = (
    *_specs(_CHANNELS, kinds=STAGE2_AB),
    *(MetricSpec(f"stage2_ab/channel_b/strict_drop/reason/{reason}", f"dropped entries {words}", _SUM, STAGE2_AB) for reason, words in _REASONS.items()),
    *_terms("loss/A", STAGE2_AB, "the steps of Channel A"),
    *_terms("loss/B", STAGE2_AB, "the steps of Channel B"),
    *_specs(_ASYNC, kinds=STAGE2_AB, prefix="stage2_ab/async/", needs=ASYNC_SETTING),
    *_specs(
        {
            "time/learner_idle_s": ("seconds in which a device waited for packs, per optimizer step", _MEAN),
        },
        kinds=STAGE2_AB,
        needs="rollout_matching.vllm.mode: server",
    ),
)
STAGE2_EVAL_METRICS: Final = (
    *_specs(_EVAL, evaluation=True),
    *_specs(DESC_KEYS, prefix="rollout_", needs=DESC_SETTING, evaluation=True),
)
