from __future__ import annotations

import pytest

from coordexp.metrics.direction import is_greater_better


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("eval_loss", False),
        ("loss", False),
        ("eval_coord_diag/expected_bin_mae", False),
        ("coord_softce_w1/w1", False),
        ("coord_monitor/flip_desc_to_coord", False),
        ("coord_monitor/coord_vocab_mass_at_gt_text", False),
        ("coord_monitor/coord_vocab_mass_at_gt_coord", True),
        ("eval_token_acc", True),
        ("eval_det_f1@0.75", True),
        ("eval_det_bbox_AP", True),
        ("eval_rollout_f1", True),
        ("eval_det_truncated_rate", False),
        ("format_token_frac", None),
        ("eval_runtime", None),
    ],
)
def test_the_name_tells_which_way_is_better(key: str, expected: bool | None) -> None:
    assert is_greater_better(key) is expected
