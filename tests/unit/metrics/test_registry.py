from __future__ import annotations

import pytest

from coordexp.metrics.docs import render_metric_docs
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import MetricRegistry, RunKind, UnknownMetricError
from coordexp.metrics.stage1 import STAGE1_METRICS
from coordexp.metrics.stage2 import STAGE2_AB_METRICS, STAGE2_METRICS

PUBLIC = """loss token_acc token_acc_top5 text_token_acc base_ce/loss base_ce/noncoord_tokens base_ce/noncoord_tokens_per_sample base_ce/loss_per_sample
coord_diag/enabled coord_diag/loss coord_diag/soft_ce coord_diag/w1 coord_diag/ce coord_diag/gate coord_diag/coord_vocab_mass coord_diag/coord_tokens
coord_diag/acc_top5 coord_diag/p_gt_mean coord_diag/margin_mean coord_diag/expected_bin_mae coord_diag/expected_bin_abs_err_p90 coord_diag/w1_to_delta
coord_diag/coord_tokens_per_sample coord_diag/loss_per_sample coord_softce_w1/loss coord_softce_w1/soft_ce coord_softce_w1/w1 coord_softce_w1/ce
coord_softce_w1/gate stage1/total_loss_per_sample_est desc_token_frac format_token_frac coord_token_frac desc_token_acc format_token_acc coord_token_acc
desc_token_acc_top5 format_token_acc_top5 coord_token_acc_top5 coord_monitor/flip_coord_to_noncoord coord_monitor/flip_text_to_coord
coord_monitor/flip_format_to_coord coord_monitor/flip_desc_to_coord coord_monitor/coord_vocab_mass_at_gt_coord coord_monitor/coord_vocab_mass_at_gt_text
coord_monitor/coord_vocab_mass_at_gt_format coord_monitor/coord_vocab_mass_at_gt_desc pack/num_samples accum/grad_steps accum/current_grad_steps"""

STAGE2_PUBLIC = """time/{rollout_generate_s,rollout_parse_match_s,rollout_teacher_encode_s,post_rollout_pack_s,mask_build_s,forward_s,weight_sync_s,offload_s}
rollout/{gen_new_tokens_total,gen_new_tokens_mean,gen_new_tokens_p90,gen_new_tokens_p99,gen_tokens_per_s}
rollout/{do_sample,temperature,top_p,top_k,decode_greedy,decode_beam,num_beams,max_new_tokens,repetition_penalty,backend_hf,backend_vllm,seed_base}
rollout/{parse_dropped_invalid,parse_dropped_ambiguous,parse_truncated,parse_truncated_rate,parse_obj_total,parse_obj_valid_frac,parse_obj_drop_frac}
rollout/{sample_valid_pred_rate,sample_any_match_rate,gt_objects,valid_pred_objects,matched_for_supervision,excluded_from_supervision,excluded_rate,fp,fn}
rollout/{fn_appended,fp_per_sample,fn_per_sample,gt_per_sample,pred_per_sample,gating_rejections,gating_rejection_rate,precision,recall,f1,match_rate}
rollout/{matched_maskiou_mean,matched_maskiou_count,prefix_coord_targets_total,prefix_coord_targets_per_matched,tail_ignore_frac}
rollout/{desc_pairs_total,desc_exact_acc_on_matched,desc_sem_enabled,desc_sem_acc_on_matched,desc_sem_sim_mean,desc_sem_sim_count}
rollout/{prompt_len,rollout_len,prefix_len,train_len,append_len,encoded_len}_mean
rollout/{prompt_len,rollout_len,prefix_len,train_len,append_len,encoded_len}_p90
packing/{post_rollout_fill,post_rollout_segments,post_rollout_buffer,window_packs,window_segments_total,window_avg_fill}
loss/{ce,coord,coord_prefix,coord_tail,coord_reg,coord_ce,coord_el1,coord_ehuber,coord_entropy,bbox_smoothl1,bbox_ciou}
train/{samples_total,samples_seen,micro_steps}
rollout/{joins,noncanonical_join_rate}"""
STAGE2_AB_PUBLIC = """stage2/{channel_a,channel_b,invalid_rollout,raw_rollouts} stage2_ab/b_ratio_realized
loss/A/{ce,coord,coord_prefix,coord_tail,coord_reg,coord_ce,coord_el1,coord_ehuber,coord_entropy,bbox_smoothl1,bbox_ciou}
loss/B/{ce,coord,coord_prefix,coord_tail,coord_reg,coord_ce,coord_el1,coord_ehuber,coord_entropy,bbox_smoothl1,bbox_ciou}
stage2_ab/channel_b/strict_drop/{N_valid_pred,N_drop_invalid} stage2_ab/channel_b/{closure_supervision/N_drop,stop_neutral/N_skip,semantic_desc_gate/is_active}
stage2_ab/channel_b/strict_drop/reason/{missing_desc,missing_geom,wrong_arity,non_coord_token,poly_unsupported,unknown_geom,bbox_invalid,key_invalid}
stage2_ab/async/{policy_wants_b,step_kind_b,b_ratio_realized,b_step_skipped_due_to_queue,queue_depth,queue_limit,prefetch_target_packs,ver_current,ver_step}
stage2_ab/async/{ver_lag,version_window,drop_stale_total,drop_oldest_total,prefetch_success_total,prefetch_fail_total,prefetch_iter_total,prefetch_state}
stage2_ab/async/{prefetch_last_progress_s_ago,sync_in_progress,infer_inflight,is_prefetch_in_prepare_b,is_prefetch_queue_full,is_prefetch_no_segments}
stage2_ab/async/is_prefetch_error time/learner_idle_s"""
STAGE2_EVAL_PUBLIC = """eval_rollout_{precision,recall,f1,pred_objects,gt_objects,matched,fp,fn}
eval_rollout_{parse_truncated_rate,parse_dropped_invalid,parse_dropped_ambiguous}
eval_rollout_{sample_valid_pred_rate,sample_any_match_rate,matched_maskiou_mean}
eval_rollout_{desc_pairs_total,desc_exact_acc_on_matched,desc_sem_enabled,desc_sem_acc_on_matched,desc_sem_sim_mean,desc_sem_sim_count}"""


def expand(names: str) -> list[str]:
    """`a/{b,c}_d` is `a/b_d` and `a/c_d`."""
    keys: list[str] = []
    for name in names.split():
        before, _, rest = name.partition("{")
        inner, _, after = rest.partition("}")
        keys += [before + item + after for item in inner.split(",")]
    return keys


@pytest.mark.parametrize("key", PUBLIC.split())
def test_a_public_key_of_stage1_is_registered(key: str) -> None:
    assert RunKind.STAGE1 in REGISTRY.get(key).kinds


def test_nothing_else_is_registered_for_stage1() -> None:
    assert {spec.key for spec in STAGE1_METRICS} | {"loss"} == set(PUBLIC.split())


def test_every_public_key_of_training_on_rollouts_is_registered_and_no_other() -> None:
    assert sorted(expand(STAGE2_PUBLIC)) == sorted(spec.key for spec in STAGE2_METRICS)
    assert sorted(expand(STAGE2_AB_PUBLIC)) == sorted(spec.key for spec in STAGE2_AB_METRICS)
    logged_in_evaluation = {key for key in REGISTRY.keys_of(RunKind.STAGE2_AB, evaluation=True) if key.startswith("eval_rollout")}
    assert sorted(expand(STAGE2_EVAL_PUBLIC)) == sorted(logged_in_evaluation)


def test_the_kinds_of_runs_have_their_own_keys() -> None:
    matching, both = set(REGISTRY.keys_of(RunKind.ROLLOUT_MATCHING)), set(REGISTRY.keys_of(RunKind.STAGE2_AB))
    assert both - matching == set(expand(STAGE2_AB_PUBLIC))
    assert matching <= both
    assert not set(REGISTRY.keys_of(RunKind.STAGE1)) & set(expand(STAGE2_PUBLIC))
    REGISTRY.check_logged([*expand(STAGE2_PUBLIC), *expand(STAGE2_AB_PUBLIC), *expand(STAGE2_EVAL_PUBLIC)])


def test_an_unregistered_key_is_refused() -> None:
    with pytest.raises(UnknownMetricError, match="'token_accuracy' is not registered"):
        REGISTRY.get("token_accuracy")
    with pytest.raises(UnknownMetricError, match="'eval_pack/num_samples'"):
        REGISTRY.check_logged(["eval_loss", "eval_pack/num_samples"])


def test_a_key_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        MetricRegistry((*STAGE1_METRICS, STAGE1_METRICS[0]))


def test_evaluation_keys_carry_a_prefix() -> None:
    keys = REGISTRY.keys_of(RunKind.STAGE1, evaluation=True)
    assert {"eval_loss", "eval_token_acc", "eval_runtime"} <= set(keys)
    assert "eval_learning_rate" not in keys


def test_the_page_describes_every_key() -> None:
    page = render_metric_docs()
    assert [spec.key for spec in REGISTRY if f"`{spec.key}`" not in page and f"`eval_{spec.key}`" not in page] == []
    assert max(line.count(" | ") for line in page.splitlines() if line.startswith("| `")) == 4
