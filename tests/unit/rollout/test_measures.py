"""Reports as metrics: every key, by hand on a small case, and the same however the samples are spread over batches, steps and ranks."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coordexp.metrics.fold import MetricFold
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import RunKind
from coordexp.metrics.stage2 import STAGE2_EVAL_METRICS
from coordexp.rollout.desc import NameCounts
from coordexp.rollout.measures import channel_b_metrics, evaluation_metrics, training_metrics
from coordexp.rollout.report import AnswerCounts, RolloutReport, TargetCounts
from coordexp.types.rollouts import DropReason, GenerationSettings

SETTINGS = GenerationSettings(max_new_tokens=64, temperature=0.7, top_p=0.9, top_k=20)


def answer(**changes) -> AnswerCounts:
    base = AnswerCounts(
        num_prompt_tokens=100,
        num_tokens=50,
        is_truncated=False,
        is_invalid=False,
        num_gt=4,
        num_pred=5,
        dropped={DropReason.WRONG_ARITY: 1, DropReason.UNKNOWN_GEOM: 2},
        num_ambiguous=1,
        num_matched=3,
        iou_sum=2.4,
        num_candidates=20,
        num_gated=8,
    )
    return replace(base, **changes)


def target(**changes) -> TargetCounts:
    base = TargetCounts(
        num_tokens=80,
        num_own_tokens=48,
        num_untaught_added_tokens=4,
        segment_length=180,
        num_supervised=2,
        num_excluded=1,
        num_appended=2,
        num_matched_coords=8,
        num_joins=2,
        num_noncanonical_joins=1,
        is_fallback=False,
    )
    return replace(base, **changes)


INVALID = answer(
    num_tokens=10,
    is_truncated=True,
    is_invalid=True,
    num_gt=2,
    num_pred=0,
    dropped={},
    num_ambiguous=0,
    num_matched=0,
    iou_sum=0.0,
    num_candidates=0,
    num_gated=0,
)
NAMES = NameCounts(num_pairs=3, num_equal=1, has_encoder=True, num_alike=2, similarity_sum=2.1, num_similarities=3)
REPORT = RolloutReport(
    generation=SETTINGS,
    backend="hf",
    seed_base=77,
    answers=(answer(), INVALID),
    targets=(
        target(),
        target(num_own_tokens=0, num_supervised=0, num_excluded=0, num_matched_coords=0, num_joins=0, num_noncanonical_joins=0, is_fallback=True),
    ),
    names=NAMES,
    is_gate_active=True,
    generate_s=1.5,
    parse_match_s=0.25,
    encode_s=0.125,
)


def values(*parts) -> dict[str, float]:
    fold = MetricFold()
    for part in parts:
        fold.update(part)
    return fold.values()


def test_every_number_of_a_step_follows_from_its_counts() -> None:
    logged = values(training_metrics(REPORT))
    expected = {
        "gen_new_tokens_total": 60,
        "gen_new_tokens_mean": 30,
        "gen_new_tokens_p90": 46,
        "gen_new_tokens_p99": 49.6,
        "gen_tokens_per_s": 40,
        "do_sample": 1,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "decode_greedy": 0,
        "decode_beam": 0,
        "num_beams": 1,
        "max_new_tokens": 64,
        "repetition_penalty": 1,
        "backend_hf": 1,
        "backend_vllm": 0,
        "seed_base": 77,
        "parse_dropped_invalid": 3,
        "parse_dropped_ambiguous": 1,
        "parse_truncated": 1,
        "parse_truncated_rate": 0.5,
        "parse_obj_total": 9,
        "parse_obj_valid_frac": 5 / 9,
        "parse_obj_drop_frac": 4 / 9,
        "sample_valid_pred_rate": 0.5,
        "sample_any_match_rate": 0.5,
        "gt_objects": 6,
        "valid_pred_objects": 5,
        "matched_for_supervision": 2,
        "excluded_from_supervision": 1,
        "excluded_rate": 1 / 3,
        "fp": 2,
        "fn": 3,
        "fn_appended": 4,
        "fp_per_sample": 1,
        "fn_per_sample": 1.5,
        "gt_per_sample": 3,
        "pred_per_sample": 2.5,
        "gating_rejections": 8,
        "gating_rejection_rate": 0.4,
        "precision": 0.6,
        "recall": 0.5,
        "f1": 6 / 11,
        "match_rate": 2 / 6,
        "matched_maskiou_mean": 0.8,
        "matched_maskiou_count": 3,
        "desc_pairs_total": 3,
        "desc_exact_acc_on_matched": 1 / 3,
        "desc_sem_enabled": 1,
        "desc_sem_acc_on_matched": 2 / 3,
        "desc_sem_sim_mean": 0.7,
        "desc_sem_sim_count": 3,
        "prefix_coord_targets_total": 8,
        "prefix_coord_targets_per_matched": 4,
        "tail_ignore_frac": 8 / 112,
        "joins": 2,
        "noncanonical_join_rate": 0.5,
        "prompt_len_mean": 100,
        "prompt_len_p90": 100,
        "rollout_len_mean": 30,
        "rollout_len_p90": 46,
        "prefix_len_mean": 24,
        "prefix_len_p90": 43.2,
        "train_len_mean": 80,
        "train_len_p90": 80,
        "append_len_mean": 56,
        "append_len_p90": 75.2,
        "encoded_len_mean": 180,
        "encoded_len_p90": 180,
    }
    times = {"time/rollout_generate_s": 1.5, "time/rollout_parse_match_s": 0.25, "time/rollout_teacher_encode_s": 0.125}
    assert logged == pytest.approx({**{f"rollout/{key}": value for key, value in expected.items()}, **times})


def test_every_rollout_key_of_the_registry_is_logged() -> None:
    registered = {key for key in REGISTRY.keys_of(RunKind.ROLLOUT_MATCHING) if key.startswith(("rollout/", "time/rollout_"))}
    assert set(training_metrics(REPORT)) == registered
    assert {f"eval_{key}" for key in evaluation_metrics(REPORT)} == {f"eval_{spec.key}" for spec in STAGE2_EVAL_METRICS}


def test_channel_b_counts_drops_by_reason_and_fallbacks_under_both_names() -> None:
    logged = values(channel_b_metrics(REPORT))
    prefix = "stage2_ab/channel_b"
    assert {key: value for key, value in logged.items() if value} == {
        "stage2/raw_rollouts": 2,
        "stage2/invalid_rollout": 1,
        f"{prefix}/strict_drop/N_valid_pred": 5,
        f"{prefix}/strict_drop/N_drop_invalid": 3,
        f"{prefix}/strict_drop/reason/wrong_arity": 1,
        f"{prefix}/strict_drop/reason/unknown_geom": 2,
        f"{prefix}/closure_supervision/N_drop": 1,
        f"{prefix}/stop_neutral/N_skip": 1,
        f"{prefix}/semantic_desc_gate/is_active": 1,
    }
    assert f"{prefix}/strict_drop/reason/key_invalid" in logged


def test_an_evaluation_logs_quotients_of_sums() -> None:
    logged = values(evaluation_metrics(REPORT))
    expected = {"precision": 0.6, "recall": 0.5, "f1": 6 / 11, "pred_objects": 5, "gt_objects": 6, "matched": 3, "fp": 2, "fn": 3, "matched_maskiou_mean": 0.8}
    assert {key: logged[f"rollout_{key}"] for key in expected} == pytest.approx(expected)


def test_without_a_monitor_no_name_is_logged_and_without_an_encoder_it_says_so() -> None:
    assert not [key for key in training_metrics(replace(REPORT, names=None)) if "desc" in key]
    logged = values(training_metrics(replace(REPORT, names=NameCounts(num_pairs=3, num_equal=1))))
    assert {key.rpartition("/")[2] for key in logged if "desc" in key} == {"desc_pairs_total", "desc_exact_acc_on_matched", "desc_sem_enabled"}
    assert logged["rollout/desc_sem_enabled"] == 0
    assert values(channel_b_metrics(replace(REPORT, is_gate_active=False)))["stage2_ab/channel_b/semantic_desc_gate/is_active"] == 0


def test_a_rate_over_nothing_is_left_out() -> None:
    logged = values(training_metrics(RolloutReport(generation=SETTINGS, backend="hf", seed_base=0)))
    assert not {"rollout/precision", "rollout/recall", "rollout/f1", "rollout/gen_new_tokens_p90", "rollout/matched_maskiou_mean"} & logged.keys()
    assert logged["rollout/gt_objects"] == logged["rollout/gen_new_tokens_total"] == 0


def test_batches_and_ranks_give_what_one_list_of_samples_gives() -> None:
    generator = random.Random(3)
    answers = tuple(
        answer(num_tokens=generator.randrange(5, 400), num_gt=generator.randrange(9), num_pred=generator.randrange(3, 9), is_truncated=generator.random() < 0.3)
        for _ in range(30)
    )
    targets = tuple(target(num_own_tokens=generator.randrange(70), segment_length=generator.randrange(100, 900)) for _ in range(30))
    whole = replace(REPORT, answers=answers, targets=targets)
    batches = [replace(whole, answers=answers[i : i + 7], targets=targets[i : i + 7], names=None) for i in range(0, 30, 7)]
    batches[0] = replace(batches[0], names=NAMES)
    ranks = [batches[0] + batches[2] + batches[4], batches[1] + batches[3]]
    for measure in (training_metrics, channel_b_metrics, evaluation_metrics):
        split, joined = values(*(measure(report) for report in ranks)), values(measure(whole))
        # each batch took as long as the whole
        timed = {"rollout/gen_tokens_per_s", "time/rollout_generate_s", "time/rollout_parse_match_s", "time/rollout_teacher_encode_s"}
        assert {key: value for key, value in split.items() if key not in timed} == pytest.approx({key: joined[key] for key in joined if key not in timed})


def test_seconds_are_those_of_a_step_on_a_device() -> None:
    step = REPORT + REPORT
    assert values(training_metrics(step), training_metrics(step))["time/rollout_generate_s"] == 3.0
