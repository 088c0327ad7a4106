"""`semantic_desc_report.json`: rows of unknown names, categories that the threshold cannot tell apart, and the warning about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation import semantic_report
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.semantic_report import DescRow
from coordexp.semantics.encoder import LazyEncoder, load_encoder


def _objects(*names: str) -> list[dict[str, Any]]:
    return [{"bbox_2d": [11 * (place % 9), 0, 11 * (place % 9) + 10, 10], "desc": name} for place, name in enumerate(names)]


def _evaluate(record: Any, gt: list[str], pred: list[str], **settings: Any) -> EvaluationResult:
    return evaluate([record(_objects(*gt), _objects(*pred))], settings=EvalSettings(**settings), encoder=LazyEncoder())


def test_rows_are_the_unknown_names_the_most_frequent_first(record: Any) -> None:
    report = _evaluate(record, ["couch", "tv"], ["tv", "", "spaceship", "sofa", "Couch", "spaceship", "television"]).semantic_report
    assert report is not None
    assert [(row.pred_desc, row.count, row.best_gt_desc, row.mapped) for row in report.rows] == [
        ("spaceship", 2, "couch", False), ("Couch", 1, "couch", True), ("television", 1, "tv", True), ("sofa", 1, "couch", True), ("", 1, None, False),
    ]  # fmt: skip
    assert report.rows[1] == DescRow("Couch", 1, "couch", 1.0, mapped=True)
    assert report.rows[4].score is None


def test_the_file_names_the_encoder_and_is_there_when_names_were_unknown(tmp_path: Path, record: Any) -> None:
    _evaluate(record, ["couch", "car"], ["sofa"]).save(tmp_path)
    report = json.loads((tmp_path / "semantic_desc_report.json").read_text())
    assert (report["semantic_model"], report["semantic_threshold"], report["semantic_behavior"]) == (load_encoder().name, 0.6, "map-or-drop")
    assert (report["unique_unknown_desc"], report["unknown_total_preds"], len(report["rows"])) == (1, 1, 1)
    assert (report["num_near_duplicates"], report["near_duplicates"]) == (0, [])


def test_equal_texts_are_reported_without_an_encoder(record: Any) -> None:
    report = _evaluate(record, ["cat", "dog"], ["Cat"]).semantic_report
    assert report is not None
    assert report.rows == (DescRow("Cat", 1, "cat", 1.0, mapped=True),)
    assert (report.encoder, report.near_duplicates, report.warnings) == (None, None, ())


@pytest.mark.parametrize(("gt", "pred"), [(["cat"], ["cat"]), ([], ["dog"])], ids=["every name is known", "no category"])
def test_there_is_no_report_of_nothing(tmp_path: Path, record: Any, gt: list[str], pred: list[str]) -> None:
    result = _evaluate(record, gt, pred)
    result.save(tmp_path)
    assert result.semantic_report is None
    assert not (tmp_path / "semantic_desc_report.json").exists()


def test_categories_that_the_threshold_cannot_tell_apart_are_a_warning(tmp_path: Path, record: Any) -> None:
    result = _evaluate(record, ["cat", "dog", "car", "truck", "pizza"], ["sofa"])
    result.save(tmp_path)
    pairs = json.loads((tmp_path / "semantic_desc_report.json").read_text())["near_duplicates"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("car", "truck"), ("cat", "dog")]
    assert pairs[0]["similarity"] > pairs[1]["similarity"] >= 0.6
    assert result.warnings[0].startswith("2 pairs of ground-truth categories are within the label threshold 0.6, the nearest 'car' and 'truck' (0.")
    assert json.loads((tmp_path / "metrics.json").read_text())["warnings"] == list(result.warnings)


def test_wrong_known_names_make_a_report_of_near_categories_alone(record: Any) -> None:
    result = _evaluate(record, ["cat", "dog"], ["dog", "dog"], f1ish_pred_scope="all")
    assert result.semantic_report is not None
    assert (result.semantic_report.rows, result.semantic_report.num_near_duplicates) == ((), 1)


def test_no_pair_is_no_warning(record: Any) -> None:
    assert _evaluate(record, ["cat", "dog"], ["sofa"], semantic_threshold=0.9).warnings == ()


def test_too_many_categories_to_compare_are_counted_and_said_once(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantic_report, "MAX_COMPARED", 2)
    result = _evaluate(record, ["cat", "dog", "car"], ["sofa"])
    assert result.counters["semantic_report_failed"] == 1
    assert result.warnings == ("near duplicates were not looked for: there are more than 2 categories",)
    assert result.semantic_report is not None
    assert result.semantic_report.near_duplicates is None
    assert len(result.semantic_report.rows) == 1
