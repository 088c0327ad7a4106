"""Whether more of a metric is better: a best checkpoint chosen the wrong way round would be the worst one."""

from __future__ import annotations

import re

from coordexp.metrics.specs import EVAL_PREFIX

_LOWER = re.compile(
    r"loss|.*/(loss|soft_ce|w1|ce|gate|loss_per_sample|total_loss_per_sample_est|margin_mean|expected_bin_mae|expected_bin_abs_err_p90|w1_to_delta)"
    r"|coord_monitor/flip_.*|coord_monitor/coord_vocab_mass_at_gt_(text|format|desc)|rollout_(fp|fn|parse_.*)|det_(invalid_objects|truncated_rate)"
)
_HIGHER = re.compile(
    r".*_acc(_top5)?|.*/acc_top5|coord_diag/(p_gt_mean|coord_vocab_mass)|coord_monitor/coord_vocab_mass_at_gt_coord"
    r"|det_(f1.*|precision|recall|bbox_.*)|rollout_(precision|recall|f1|matched|sample_.*_rate|matched_maskiou_mean)"
)


def is_greater_better(key: str) -> bool | None:
    """None when the name does not tell. Examples: `is_greater_better("eval_det_f1") is True`, `is_greater_better("coord_diag/w1") is False`."""
    bare = key.removeprefix(EVAL_PREFIX)
    if _LOWER.fullmatch(bare):
        return False
    return True if _HIGHER.fullmatch(bare) else None
