"""What the report says in tiles, tables and lines: values prepared from a result, with what makes them doubtful."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.evaluate import EvalSettings, evaluate, evaluate_coco
from coordexp.evaluation.health import ObjectsPerImage
from coordexp.evaluation.result import EvaluationResult
from coordexp.viz.report_curves import MAX_CHOICES, curves_view
from coordexp.viz.report_data import build_tiles, class_rows, counters
from coordexp.viz.report_health import health_rows


def _box(desc: str, x: int, y: int = 5, size: int = 20, **more: Any) -> dict[str, Any]:
    return {"type": "bbox_2d", "points": [x, y, x + size, y + size], "desc": desc, **more}


def _evaluate(records: list[dict[str, Any]], **settings: Any) -> EvaluationResult:
    whole = [{"image": f"{place}.png", "width": 200, "height": 100, "coord_mode": "pixel", **record} for place, record in enumerate(records)]
    return evaluate(whole, settings=EvalSettings(**settings))


FOUND = {"gt": [_box("cat", 5), _box("dog", 60)], "pred": [_box("cat", 5, score=0.9), _box("dog", 60, score=0.8), _box("dog", 120, score=0.3)]}
SCORELESS = {"gt": FOUND["gt"], "pred": [_box("cat", 5), _box("dog", 60)]}


def test_a_tile_carries_its_interval_and_the_number_before() -> None:
    result, before = _evaluate([FOUND] * 3, bootstrap=20), _evaluate([SCORELESS] * 3)
    tile = build_tiles(result, before)[0]
    assert (tile.name, round(tile.value, 3), tile.before, tile.is_headline) == ("F1 at IoU 0.50", 0.8, 1.0, True)
    assert tile.interval == result.intervals.of["f1_det@0.50"]
    assert tile.delta == pytest.approx(-0.2)


def test_average_precision_of_tied_scores_is_marked_and_f1_is_not() -> None:
    doubtful = {tile.name for tile in build_tiles(_evaluate([SCORELESS]), None) if tile.is_doubtful}
    assert doubtful == {"COCO AP", "COCO AP50"}


def test_undefined_numbers_have_no_tile() -> None:
    names = {tile.name for tile in build_tiles(_evaluate([{"gt": [], "pred": [_box("cat", 5)]}]), None)}
    assert "COCO AP" not in names
    assert "F1 at IoU 0.50" in names


def test_classes_stand_by_number_of_ground_truths_with_their_best_threshold() -> None:
    rows = class_rows(_evaluate([FOUND, {"gt": [_box("dog", 5)], "pred": []}]), None)
    assert [(row.name, row.counts.num_gt, row.best_score) for row in rows] == [("dog", 2, 0.8), ("cat", 1, 0.9)]


def test_counters_that_are_not_zero_are_explained_and_the_others_named() -> None:
    broken = {"gt": [], "pred": [{"type": "bbox_2d", "points": [5, 5, 5, 5], "desc": "cat"}, _box("bird", 5)]}
    found, zero = counters(_evaluate([FOUND, broken]))
    assert {item.name: item.count for item in found} == {"degenerate": 1, "unknown_dropped": 1}
    assert all(item.meaning for item in found)
    assert "invalid_json" in zero


def test_every_counter_of_an_evaluation_has_a_meaning(tmp_path: Path) -> None:
    box = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}
    truth = {"images": [{"id": 1, "width": 96, "height": 96}], "categories": [{"id": 1, "name": "cat"}], "annotations": [{**box, "id": 1, "iscrowd": 1}]}
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "preds.json").write_text(json.dumps([{**box, "score": 0.5}]))
    of_files = evaluate_coco(tmp_path / "gt.json", tmp_path / "preds.json")
    assert of_files.counters["crowd_ignored"] == 1
    for result in (_evaluate([FOUND]), of_files):
        found, _ = counters(replace(result, counters=dict.fromkeys(result.counters, 1)))
        assert [item.name for item in found if not item.meaning] == []


def test_without_scores_there_are_no_curves_and_the_reason_is_said() -> None:
    view = curves_view(_evaluate([SCORELESS]))
    assert (view.precision_recall, view.sweep, view.reliability, view.classes) == (None, None, None, ())
    assert "no scores that differ" in view.absent[0]


def test_with_scores_every_curve_is_drawn_and_the_best_threshold_marked() -> None:
    view = curves_view(_evaluate([FOUND]))
    assert view.classes == ("cat", "dog")
    assert view.best is not None
    assert view.best.best.score == 0.8
    assert all(chart and chart.startswith("<svg") for chart in (view.precision_recall, view.sweep, view.reliability, view.histogram))
    assert "best F1 1.000" in (view.sweep or "")


def test_an_earlier_calibration_is_drawn_beside_the_present_one() -> None:
    now, before = _evaluate([FOUND]), _evaluate([{**FOUND, "pred": [_box("cat", 5, score=0.3), _box("dog", 60, score=0.2)]}])
    alone, both = curves_view(now), curves_view(now, before)
    assert alone.calibration_before is None
    assert both.calibration_before == before.analysis.calibration
    assert "before" in (both.reliability or "")
    assert "before" not in (alone.reliability or "")


def test_curves_can_be_chosen_of_the_most_frequent_classes_only() -> None:
    records = [{"gt": [_box(f"class {place}", 5)], "pred": [_box(f"class {place}", 5, score=1 / (place + 2))]} for place in range(MAX_CHOICES + 7)]
    view = curves_view(_evaluate([*records, records[-1]]))
    assert len(view.classes) == MAX_CHOICES
    assert view.classes[0] == f"class {MAX_CHOICES + 6}"


def test_scores_beyond_one_have_a_sweep_and_no_calibration() -> None:
    record = {"gt": FOUND["gt"], "pred": [_box("cat", 5, score=7.5), _box("dog", 60, score=-2.0)]}
    view = curves_view(_evaluate([record]))
    assert view.sweep is not None
    assert view.calibration is None
    assert any("between -2 and 7.5" in reason for reason in view.absent)


def test_health_hides_what_the_records_do_not_say_and_never_rounds_trouble_to_zero() -> None:
    health = _evaluate([FOUND, {"gt": [], "pred": []}]).analysis.health
    assert [row.name for row in health_rows(health)][:4] == ["failed", "malformed", "empty", "repeated boxes"]
    rows = {row.name: row for row in health_rows(replace(health, truncated=0.0001, looped=0.25, pred_objects=ObjectsPerImage(1.5, 1.0, 2.9, 3)))}
    assert (rows["cut off"].value, rows["cut off"].is_bad) == ("< 0.1 %", True)
    assert rows["ended by the loop guard"].value == "25.0 %"
    assert rows["predictions in an image"].value == "1.5; 1, 2.9, 3"
