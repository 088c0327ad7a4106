from __future__ import annotations

import pytest

from coordexp.metrics.docs import render_metric_docs
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import MetricRegistry, RunKind, UnknownMetricError
from coordexp.metrics.stage1 import STAGE1_METRICS

PUBLIC = """loss token_acc token_acc_top5 text_token_acc base_ce/loss base_ce/noncoord_tokens base_ce/noncoord_tokens_per_sample base_ce/loss_per_sample
coord_diag/enabled coord_diag/loss coord_diag/soft_ce coord_diag/w1 coord_diag/ce coord_diag/gate coord_diag/coord_vocab_mass coord_diag/coord_tokens
coord_diag/acc_top5 coord_diag/p_gt_mean coord_diag/margin_mean coord_diag/expected_bin_mae coord_diag/expected_bin_abs_err_p90 coord_diag/w1_to_delta
coord_diag/coord_tokens_per_sample coord_diag/loss_per_sample coord_softce_w1/loss coord_softce_w1/soft_ce coord_softce_w1/w1 coord_softce_w1/ce
coord_softce_w1/gate stage1/total_loss_per_sample_est desc_token_frac format_token_frac coord_token_frac desc_token_acc format_token_acc coord_token_acc
desc_token_acc_top5 format_token_acc_top5 coord_token_acc_top5 coord_monitor/flip_coord_to_noncoord coord_monitor/flip_text_to_coord
coord_monitor/flip_format_to_coord coord_monitor/flip_desc_to_coord coord_monitor/coord_vocab_mass_at_gt_coord coord_monitor/coord_vocab_mass_at_gt_text
coord_monitor/coord_vocab_mass_at_gt_format coord_monitor/coord_vocab_mass_at_gt_desc pack/num_samples accum/grad_steps accum/current_grad_steps"""


@pytest.mark.parametrize("key", PUBLIC.split())
def test_a_public_key_of_stage1_is_registered(key: str) -> None:
    assert RunKind.STAGE1 in REGISTRY.get(key).kinds


def test_nothing_else_is_registered_for_stage1() -> None:
    assert {spec.key for spec in STAGE1_METRICS} | {"loss"} == set(PUBLIC.split())


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
