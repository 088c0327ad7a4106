"""Intervals over images: equal to re-evaluating resampled records, fixed by their seed, and silent where a number means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.bootstrap import ap_statistics, bootstrap_intervals, det_statistic
from coordexp.evaluation.evaluate import EvalSettings, evaluate, evaluate_coco
from coordexp.evaluation.image_counts import F1ishStatistic
from coordexp.evaluation.resampling import Resampling, percentile_interval
from coordexp.evaluation.weighted_ap import average_precision

SHARES = ("f1_det@0.50", "f1_det@0.75", "f1_det@0.95", "f1_det_miou", "f1_det@0.50_precision", "f1_det@0.95_recall", "mean_matched_iou")
AP_KEYS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def _drawn(num_images: int, num_resamples: int, seed: int) -> list[list[int]]:
    """The same resamples as lists of images, from the documented generator."""
    generator = np.random.default_rng(seed)
    return [sorted(generator.integers(0, num_images, num_images).tolist()) for _ in range(num_resamples)]


@pytest.mark.parametrize(("num_images", "settings"), [(12, EvalSettings()), (9, EvalSettings(pixel_mode="exact", iou_thrs=(0.4, 0.5), f1ish_iou_thrs=(0.3,)))])
def test_intervals_equal_those_of_evaluating_each_resample_anew(make_scenes: Any, num_images: int, settings: EvalSettings) -> None:
    records = make_scenes(num_images, seed=11, polygons=True, crowd=1)
    result = evaluate(records, settings=settings)
    found = bootstrap_intervals(result, Resampling(num_images, 30, seed=5))
    anew = [evaluate([records[place] for place in drawn], settings=settings).metrics for drawn in _drawn(num_images, 30, seed=5)]
    assert {"f1_det_miou", "bbox_AP", "bbox_APs", "segm_AP50", "f1ish@0.30_f1_full_micro", "f1ish@0.30_recall_loc_macro"} <= set(found.of)
    for key, interval in found.of.items():
        values = np.array([metrics.get(key, -1.0) for metrics in anew])
        assert interval == pytest.approx(tuple(np.percentile(values[values > -1], (2.5, 97.5))), abs=1e-12), key
        assert found.undefined.get(key, 0) == (values == -1.0).sum(), key


def test_every_share_has_an_interval_around_its_number(make_scenes: Any) -> None:
    result = evaluate(make_scenes(60, seed=1), settings=EvalSettings(bootstrap=200))
    assert result.intervals is not None
    for key in (*SHARES, *(f"bbox_{name}" for name in AP_KEYS), "f1ish@0.50_f1_loc_micro", "f1ish@0.50_sem_acc_on_matched"):
        low, high = result.intervals.of[key]
        assert low <= result.metrics[key] <= high, key


@pytest.mark.parametrize(("iou_type", "decimals"), [("bbox", 9), ("bbox", 1), ("segm", 9)], ids=["boxes", "tied scores", "masks"])
def test_with_every_image_once_the_numbers_are_those_of_the_evaluation(make_scenes: Any, iou_type: str, decimals: int) -> None:
    result = evaluate(make_scenes(50, seed=3, crowd=120, polygons=iou_type == "segm", decimals=decimals))
    once = np.ones((50, 1))
    statistic = next(item for item in ap_statistics(result) if item.matches.iou_type == iou_type)
    assert result.f1ish is not None
    values = det_statistic(result)(once) | F1ishStatistic(result.f1ish)(once) | statistic(once)
    assert len(values) > 40
    assert {key: float(column[0]) for key, column in values.items()} == pytest.approx({key: result.metrics[key] for key in values}, abs=1e-14)
    if iou_type == "bbox":
        by_category = [float(average_precision(ranking, once).mean()) for ranking in statistic.matches.rankings["all"]]
        assert by_category == pytest.approx(result.category_ap.tolist(), abs=1e-14)


@pytest.mark.parametrize(("is_lvis", "crowd"), [(False, 2), (True, 2), (True, 400)], ids=["crowd regions", "LVIS", "LVIS with more than 300 predictions"])
def test_so_are_those_of_coco_files(make_scenes: Any, write_coco_files: Any, monkeypatch: pytest.MonkeyPatch, is_lvis: bool, crowd: int) -> None:
    monkeypatch.setattr("coordexp.evaluation.coco_matches._ENTRIES_AT_ONCE", 50)
    result = evaluate_coco(*write_coco_files(make_scenes(40, seed=3, crowd=crowd), is_lvis=is_lvis))
    once = np.ones((40, 1))
    (statistic,) = ap_statistics(result)
    values = det_statistic(result)(once) | statistic(once)
    assert ("bbox_APr" in values) == is_lvis
    assert {key: float(column[0]) for key, column in values.items()} == pytest.approx({key: result.metrics[key] for key in values}, abs=1e-14)


def test_resamples_depend_on_the_seed_and_not_on_their_portions() -> None:
    whole, parts = (np.concatenate(list(Resampling(7, 20, seed=2).weights(at_once=size)), axis=1) for size in (None, 3))
    assert np.array_equal(whole, parts)
    assert (whole.sum(axis=0) == 7).all()
    assert not np.array_equal(whole, next(Resampling(7, 20, seed=3).weights()))


def test_average_precision_does_not_depend_on_its_portions(make_scenes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate(make_scenes(20, seed=4))
    weights = next(Resampling(20, 16).weights())
    (statistic,) = ap_statistics(result)
    whole = statistic(weights)
    monkeypatch.setattr("coordexp.evaluation.weighted_ap._CELLS_AT_ONCE", 50)
    monkeypatch.setattr("coordexp.evaluation.coco_matches._ENTRIES_AT_ONCE", 40)
    (statistic,) = ap_statistics(result)
    assert {key: values.tolist() for key, values in statistic(weights).items()} == {key: values.tolist() for key, values in whole.items()}


def test_an_interval_is_that_of_the_defined_values() -> None:
    assert percentile_interval(np.array([np.nan, *range(101)])) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.array([np.nan])) is None


def test_constant_scores_have_no_interval_of_ap(make_scenes: Any) -> None:
    result = evaluate(make_scenes(40, seed=5), settings=EvalSettings(score_mode="constant", bootstrap=20))
    assert result.intervals is not None
    assert "f1_det@0.50" in result.intervals.of
    assert not any(key.startswith("bbox_") for key in result.intervals.of)


@pytest.mark.parametrize("records", [[], [{"image": "a.png", "width": 9, "height": 9, "gt": [], "pred": []}]], ids=["no images", "no objects"])
def test_a_set_without_objects_has_intervals_where_numbers_are_defined(records: list[Any]) -> None:
    intervals = evaluate(records, settings=EvalSettings(bootstrap=10)).intervals
    assert intervals is not None
    assert intervals.of.get("f1_det@0.50") == ((1.0, 1.0) if records else None)
    assert "bbox_AP" not in intervals.of


def test_few_images_are_warned_about(make_scenes: Any) -> None:
    assert any("too narrow" in text for text in evaluate(make_scenes(10, seed=6), settings=EvalSettings(bootstrap=10)).warnings)
    assert not evaluate(make_scenes(30, seed=6), settings=EvalSettings(bootstrap=10)).warnings


def test_metrics_json_and_the_console_hold_the_intervals(tmp_path: Path, make_scenes: Any) -> None:
    result = evaluate(make_scenes(40, seed=7), settings=EvalSettings(bootstrap=50, bootstrap_seed=9))
    result.save(tmp_path)
    summary = json.loads((tmp_path / "metrics.json").read_text())
    low, high = summary["intervals"]["f1_det@0.50"]
    assert f"f1_det@0.50 {result.metrics['f1_det@0.50']:.4f} [{low:.4f}, {high:.4f}]" in str(result)
    assert (summary["bootstrap"]["num_resamples"], summary["bootstrap"]["seed"], summary["bootstrap"]["level"]) == (50, 9, 0.95)


def test_without_the_setting_there_are_none(make_scenes: Any) -> None:
    result = evaluate(make_scenes(5, seed=8))
    assert result.intervals is None
    assert "intervals" not in result.summary()
