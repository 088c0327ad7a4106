"""A report as metrics, each with the reduction that the registry gives it: counts add up, rates are quotients of sums."""

from __future__ import annotations

from collections.abc import Mapping

from coordexp.metrics.fold import MetricFold
from coordexp.rollout.desc import NameCounts
from coordexp.rollout.report import AnswerCounts, RolloutReport, TargetCounts
from coordexp.types.metrics import Metric
from coordexp.types.rollouts import DropReason


def training_metrics(report: RolloutReport) -> Mapping[str, Metric]:
    """`rollout/*` and `time/rollout_*` of the rollouts of one step on one device: one report for each step, since seconds are counted by step."""
    fold = MetricFold()
    _add_decoding(fold, report)
    _add_answers(fold, report)
    _add_supervision(fold, report)
    _add_lengths(fold, report)
    if report.names is not None:
        _add_names(fold, report.names, prefix="rollout/")
    fold.add("time/rollout_generate_s", report.generate_s)
    fold.add("time/rollout_parse_match_s", report.parse_match_s)
    fold.add("time/rollout_teacher_encode_s", report.encode_s)
    return fold.snapshot()


def channel_b_metrics(report: RolloutReport) -> Mapping[str, Metric]:
    """What `stage2_ab_training` logs beside `training_metrics`."""
    fold, answers = MetricFold(), report.answers
    prefix = "stage2_ab/channel_b"
    fold.add("stage2/raw_rollouts", len(answers))
    fold.add("stage2/invalid_rollout", sum(answer.is_invalid for answer in answers))
    fold.add(f"{prefix}/strict_drop/N_valid_pred", sum(answer.num_pred for answer in answers))
    fold.add(f"{prefix}/strict_drop/N_drop_invalid", sum(answer.num_dropped for answer in answers))
    for reason in DropReason:
        fold.add(f"{prefix}/strict_drop/reason/{reason}", sum(answer.dropped.get(reason, 0) for answer in answers))
    num_fallbacks = sum(target.is_fallback for target in report.targets)
    fold.add(f"{prefix}/closure_supervision/N_drop", num_fallbacks)
    fold.add(f"{prefix}/stop_neutral/N_skip", num_fallbacks)
    fold.add(f"{prefix}/semantic_desc_gate/is_active", float(report.is_gate_active))
    return fold.snapshot()


def evaluation_metrics(report: RolloutReport) -> Mapping[str, Metric]:
    """`rollout_*` of an evaluation, which are logged with the prefix `eval_`."""
    fold, answers = MetricFold(), report.answers
    num_pred, num_gt, num_matched = _totals(answers)
    for key, total, count in _rates(answers):
        fold.add(f"rollout_{key}", total, count)
    fold.add("rollout_pred_objects", num_pred)
    fold.add("rollout_gt_objects", num_gt)
    fold.add("rollout_matched", num_matched)
    fold.add("rollout_fp", num_pred - num_matched)
    fold.add("rollout_fn", num_gt - num_matched)
    fold.add("rollout_parse_dropped_invalid", sum(answer.num_dropped for answer in answers))
    fold.add("rollout_parse_dropped_ambiguous", sum(answer.num_ambiguous for answer in answers))
    if report.names is not None:
        _add_names(fold, report.names, prefix="rollout_")
    return fold.snapshot()


def _totals(answers: tuple[AnswerCounts, ...]) -> tuple[int, int, int]:
    """(predicted, annotated, matched) objects."""
    return sum(answer.num_pred for answer in answers), sum(answer.num_gt for answer in answers), sum(answer.num_matched for answer in answers)


def _rates(answers: tuple[AnswerCounts, ...]) -> list[tuple[str, float, float]]:
    """(key, total, count) of what training and evaluation both log."""
    num_pred, num_gt, num_matched = _totals(answers)
    return [
        ("precision", num_matched, num_pred),
        ("recall", num_matched, num_gt),
        ("f1", 2 * num_matched, num_pred + num_gt),
        ("matched_maskiou_mean", sum(answer.iou_sum for answer in answers), num_matched),
        ("parse_truncated_rate", sum(answer.is_truncated for answer in answers), len(answers)),
        ("sample_valid_pred_rate", sum(answer.num_pred > 0 for answer in answers), len(answers)),
        ("sample_any_match_rate", sum(answer.num_matched > 0 for answer in answers), len(answers)),
    ]


def _add_decoding(fold: MetricFold, report: RolloutReport) -> None:
    settings, lengths = report.generation, [float(answer.num_tokens) for answer in report.answers]
    is_sampled, is_beam = settings.temperature > 0, settings.num_beams > 1
    facts = {
        "do_sample": float(is_sampled),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "decode_greedy": float(not is_sampled and not is_beam),
        "decode_beam": float(is_beam),
        "num_beams": settings.num_beams,
        "max_new_tokens": settings.max_new_tokens,
        "repetition_penalty": settings.repetition_penalty,
        "backend_hf": float(report.backend == "hf"),
        "backend_vllm": float(report.backend == "vllm"),
        "seed_base": report.seed_base,
    }
    for key, value in facts.items():
        fold.add(f"rollout/{key}", value)
    fold.add("rollout/gen_new_tokens_total", sum(lengths))
    for key in ("mean", "p90", "p99"):
        fold.add_values(f"rollout/gen_new_tokens_{key}", lengths)
    fold.add("rollout/gen_tokens_per_s", sum(lengths), report.generate_s)


def _add_answers(fold: MetricFold, report: RolloutReport) -> None:
    answers = report.answers
    num_pred, num_gt, num_matched = _totals(answers)
    num_dropped, num_ambiguous = sum(answer.num_dropped for answer in answers), sum(answer.num_ambiguous for answer in answers)
    num_entries = num_pred + num_dropped + num_ambiguous
    for key, total, count in _rates(answers):
        fold.add(f"rollout/{key}", total, count)
    sums = {
        "parse_dropped_invalid": num_dropped,
        "parse_dropped_ambiguous": num_ambiguous,
        "parse_truncated": sum(answer.is_truncated for answer in answers),
        "parse_obj_total": num_entries,
        "gt_objects": num_gt,
        "valid_pred_objects": num_pred,
        "fp": num_pred - num_matched,
        "fn": num_gt - num_matched,
        "gating_rejections": sum(answer.num_gated for answer in answers),
        "matched_maskiou_count": num_matched,
    }
    means = {
        "parse_obj_valid_frac": (num_pred, num_entries),
        "parse_obj_drop_frac": (num_dropped + num_ambiguous, num_entries),
        "fp_per_sample": (num_pred - num_matched, len(answers)),
        "fn_per_sample": (num_gt - num_matched, len(answers)),
        "gt_per_sample": (num_gt, len(answers)),
        "pred_per_sample": (num_pred, len(answers)),
        "gating_rejection_rate": (sums["gating_rejections"], sum(answer.num_candidates for answer in answers)),
    }
    for key, total in sums.items():
        fold.add(f"rollout/{key}", total)
    for key, (total, count) in means.items():
        fold.add(f"rollout/{key}", total, count)


def _add_supervision(fold: MetricFold, report: RolloutReport) -> None:
    targets = report.targets
    num_supervised, num_excluded = sum(target.num_supervised for target in targets), sum(target.num_excluded for target in targets)
    num_coords = sum(target.num_matched_coords for target in targets)
    num_added = sum(_added(target) for target in targets)
    fold.add("rollout/matched_for_supervision", num_supervised)
    fold.add("rollout/excluded_from_supervision", num_excluded)
    fold.add("rollout/excluded_rate", num_excluded, sum(answer.num_matched for answer in report.answers))
    fold.add("rollout/match_rate", num_supervised, sum(answer.num_gt for answer in report.answers))
    fold.add("rollout/fn_appended", sum(target.num_appended for target in targets))
    fold.add("rollout/prefix_coord_targets_total", num_coords)
    fold.add("rollout/prefix_coord_targets_per_matched", num_coords, num_supervised)
    fold.add("rollout/tail_ignore_frac", sum(target.num_untaught_added_tokens for target in targets), num_added)
    fold.add("rollout/joins", sum(target.num_joins for target in targets))
    fold.add("rollout/noncanonical_join_rate", sum(target.num_noncanonical_joins for target in targets), sum(target.num_joins for target in targets))


def _added(target: TargetCounts) -> int:
    """Tokens that are not of the model's own entries."""
    return target.num_tokens - target.num_own_tokens


def _add_lengths(fold: MetricFold, report: RolloutReport) -> None:
    lengths = {
        "prompt_len": [answer.num_prompt_tokens for answer in report.answers],
        "rollout_len": [answer.num_tokens for answer in report.answers],
        "prefix_len": [target.num_own_tokens for target in report.targets],
        "train_len": [target.num_tokens for target in report.targets],
        "append_len": [_added(target) for target in report.targets],
        "encoded_len": [target.segment_length for target in report.targets],
    }
    for name, values in lengths.items():
        fold.add_values(f"rollout/{name}_mean", values)
        fold.add_values(f"rollout/{name}_p90", values)


def _add_names(fold: MetricFold, names: NameCounts, *, prefix: str) -> None:
    fold.add(f"{prefix}desc_pairs_total", names.num_pairs)
    fold.add(f"{prefix}desc_exact_acc_on_matched", names.num_equal, names.num_pairs)
    fold.add(f"{prefix}desc_sem_enabled", float(names.has_encoder))
    if names.has_encoder:
        fold.add(f"{prefix}desc_sem_acc_on_matched", names.num_alike, names.num_pairs)
        fold.add(f"{prefix}desc_sem_sim_mean", names.similarity_sum, names.num_similarities)
        fold.add(f"{prefix}desc_sem_sim_count", names.num_similarities)
