"""Calibration against the reference formulas."""

from __future__ import annotations

from typing import Any

import hotcoco.metrics
import numpy as np
import pytest

from coordexp.evaluation.calibration import calibration
from coordexp.evaluation.evaluate import EvalSettings, evaluate


@pytest.mark.parametrize("decimals", [9, 1], ids=["any score", "scores on the borders of bins"])
def test_bins_and_errors_equal_those_of_the_library(decimals: int) -> None:
    rng = np.random.default_rng(0)
    scores = np.append(np.round(rng.random(500), decimals), [0.0, 1.0])
    is_right = rng.random(502) < scores**2
    found = calibration(scores, is_right)
    assert (found.ece, found.mce) == pytest.approx(hotcoco.metrics.calibration_error(scores, is_right), abs=1e-12)
    for mine, theirs in zip(found.bins, hotcoco.metrics.calibration_curve(scores, is_right), strict=True):
        assert (mine.lower, mine.upper, mine.count) == (pytest.approx(theirs["bin_lower"]), pytest.approx(theirs["bin_upper"]), theirs["count"])
        assert (mine.mean_score, mine.accuracy) == pytest.approx((theirs["avg_confidence"], theirs["avg_accuracy"]))


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(1)
    scores, is_right = np.round(rng.random(80), 1), rng.random(80) < 0.4
    pairs = [(right > wrong) + 0.5 * (right == wrong) for right in scores[is_right] for wrong in scores[~is_right]]
    assert calibration(scores, is_right).auroc == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.parametrize("is_right", [True, False], ids=["all right", "all wrong"])
def test_there_is_nothing_to_separate_when_all_are_alike(is_right: bool) -> None:
    found = calibration(np.array([0.25, 0.75]), np.full(2, is_right))
    assert (found.auroc, found.accuracy, found.mean_score, found.ece) == (None, float(is_right), 0.5, 0.5)
    assert [(found.bins[place].mean_score, found.bins[place].accuracy) for place in (0, 2)] == [(None, None), (0.25, float(is_right))]


def test_right_is_what_f1_det_matches(make_scenes: Any) -> None:
    result = evaluate(make_scenes(40, seed=2))
    found = result.analysis.calibration
    assert found is not None
    assert found.accuracy == result.metrics["f1_det@0.50_precision"]
    assert found.brier == pytest.approx(np.mean([(score - (row in result.det.matches.pred)) ** 2 for row, score in enumerate(result.scores.scores)]))
    assert sum(item.count for item in found.bins) == len(result.data.pred)
    assert result.metrics["ece"] == found.ece


def test_scores_beyond_one_have_no_calibration_but_a_sweep(record: Any) -> None:
    pred = [{"bbox_2d": [0, 0, 9, 9], "desc": "cat", "score": score} for score in (7, -2)]
    analysis = evaluate([record([{"bbox_2d": [0, 0, 9, 9], "desc": "cat"}], pred)], settings=EvalSettings()).analysis
    assert analysis.calibration is None
    assert analysis.sweep is not None
    assert analysis.absent == ("no calibration: scores lie between -2 and 7, which is not within 0 and 1",)
