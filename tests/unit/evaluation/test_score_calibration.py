"""The stored curve: what it makes of a score, and which files are refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.evaluation.score_calibration import FittedOn, IsotonicCurve, PlattCurve, Quality, ScoreCalibration
from coordexp.types.errors import DataError
from coordexp.types.predictions import ScoreParts

FITTED = FittedOn("gt_vs_pred.jsonl", "0" * 64, num_images=2, num_pred=4, num_right=3, iou=0.5, label_rule="exact", pixel_mode="int")
STEPS = IsotonicCurve(scores=(0.2, 0.4, 0.6, 0.9), probabilities=(0.1, 0.1, 0.7, 0.7))


def calibrated(curve: IsotonicCurve | PlattCurve) -> ScoreCalibration:
    quality = Quality(0.2, 0.4, 0.1, 0.8)
    return ScoreCalibration(curve, FITTED, before=quality, after=quality, folds=5)


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_an_isotonic_curve_keeps_the_ranking_of_raw_scores(millionths: list[int]) -> None:
    raw = sorted(number / 10**6 for number in millionths)
    found = [calibrated(STEPS).probability(score, parts=None) for score in raw]
    assert all(low < high for low, high in itertools.pairwise(found))


def test_an_isotonic_curve_interpolates_and_stays_within_a_thousandth_of_it() -> None:
    shown = {0.0: 0.1, 0.3: 0.1, 0.5: 0.4, 0.75: 0.7, 1.0: 0.7}
    for score, probability in shown.items():
        assert calibrated(STEPS).probability(score, parts=None) == pytest.approx(0.999 * probability + 0.001 * score, abs=1e-10)


def test_a_platt_curve_weighs_name_and_place() -> None:
    curve = calibrated(PlattCurve(("desc", "coord"), (1.0, 0.5), 0.25))
    assert curve.probability(0.0, parts=ScoreParts(0.5, 0.5)) == pytest.approx(1 / (1 + 2.718281828459045**-0.25))
    assert 0 < curve.probability(0.0, parts=ScoreParts(0.0, 0.0)) < curve.probability(0.0, parts=ScoreParts(1.0, 1.0)) < 1
    with pytest.raises(ValueError, match="no score_parts"):
        curve.probability(0.5, parts=None)


@pytest.mark.parametrize("curve", [STEPS, PlattCurve(("score",), (1.5,), -0.1)], ids=["isotonic", "platt"])
def test_a_calibration_is_the_same_after_its_file(curve: IsotonicCurve | PlattCurve, tmp_path: Path) -> None:
    calibrated(curve).write(tmp_path / "c.json")
    assert ScoreCalibration.read(tmp_path / "c.json") == calibrated(curve)
    assert json.loads((tmp_path / "c.json").read_text())["version"] == 1


def test_files_that_are_no_calibration_are_refused_with_a_sentence(tmp_path: Path) -> None:
    good = calibrated(STEPS).as_dict()
    cases = {
        "version 2 is not 1": {**good, "version": 2},
        "not a calibration": {"version": 1, "weights": [1]},
        "scores must rise": {**good, "curve": {**good["curve"], "scores": [0.2, 0.2, 0.6, 0.9]}},
        "probabilities must not fall": {**good, "curve": {**good["curve"], "probabilities": [0.2, 0.1, 0.6, 0.9]}},
        "as many probabilities as scores": {**good, "curve": {**good["curve"], "scores": []}},
        "one weight each": {**good, "curve": {"method": "platt", "inputs": ["desc"], "weights": [1.0], "intercept": 0.0}},
    }
    for sentence, content in cases.items():
        (tmp_path / "c.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=sentence):
            ScoreCalibration.read(tmp_path / "c.json")
    with pytest.raises(DataError, match="cannot be read"):
        ScoreCalibration.read(tmp_path / "missing.json")
