"""Recorded answers of the established evaluator: equal numbers and lists, or the documented correction."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.semantics.encoder import LazyEncoder, load_encoder

FIXTURES = Path(__file__).parents[2] / "fixtures/parity/eval"
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIXTURES.glob("*.json"))}

KEYS_OF_OUR_OWN = ("f1_det", "mean_matched_iou", "best_", "ece", "nms_bbox_", "errors/", "health/")
KEYS_PRESENT_WITHOUT_PREDICTIONS = {"empty_file", "pred_box_swapped", "pred_nested_bad", "semantic_no_gt_categories", "strict_bad_geometry"}
"""Corrected: AP keys are there, 0 or -1, when no prediction with a category is left."""
COSINE = 1e-6
"""Of cosines: both sides compute them in single precision."""
INDICES_OF_THE_RECORD = {"gt_two_geoms": "unmatched_gt_indices", "pred_two_geoms_no_type": "matches"}
"""Corrected: indices refer to the record's own arrays, invalid objects counted."""


def _map_equal_texts(files: dict[str, Any]) -> None:
    """Corrected: equal normalized texts have similarity 1. The recorded cosine of `couch_` and `couch` is 0.99999988 by rounding and misses 0.9999999."""
    files["metrics.json"]["counters"] |= {"semantic_mapped": 2, "semantic_unmapped": 1, "unknown_dropped": 1}
    files["coco_preds.json"] *= 2
    files["semantic_desc_report.json"]["rows"][1]["mapped"] = True


_map_equal_texts(CASES["semantic_threshold_one"]["files"])


@pytest.fixture(scope="module", params=sorted(CASES))
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], EvaluationResult, Path]:
    """(recorded case, our result, our folder)"""
    case = CASES[request.param]
    tmp_path = tmp_path_factory.mktemp(request.param)
    path = tmp_path / "predictions.jsonl"
    path.write_text("\n".join(case["input_lines"]) + "\n", encoding="utf-8")
    options = case["options"]
    settings = EvalSettings(
        with_f1ish=options["metrics"] != "coco",
        with_segm=options.get("use_segm", True),
        iou_thrs=tuple(options["iou_thrs"]) if "iou_thrs" in options else None,
        f1ish_iou_thrs=tuple(options.get("f1ish_iou_thrs") or (0.3, 0.5)),
        f1ish_pred_scope=options.get("f1ish_pred_scope", "annotated"),
        strict_parse=options.get("strict_parse", False),
        semantic_threshold=options.get("semantic_threshold", 0.6),
    )
    result = evaluate(path, settings=settings, encoder=LazyEncoder(options["semantic_model"]))
    result.save(tmp_path / "out")
    return case, result, tmp_path / "out"


def _read(folder: Path, name: str) -> Any:
    text = (folder / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


def test_no_case_is_left_out() -> None:
    assert len(CASES) == 42


def test_metrics_and_counters_are_equal(answered: tuple[dict[str, Any], EvaluationResult, Path]) -> None:
    case, result, folder = answered
    recorded, ours = case["files"]["metrics.json"], _read(folder, "metrics.json")
    assert {key: ours["metrics"][key] for key in recorded["metrics"]} == pytest.approx(recorded["metrics"], abs=1e-9)
    assert ours["counters"] == recorded["counters"]
    added = {key for key in ours["metrics"].keys() - recorded["metrics"].keys() if not key.startswith(KEYS_OF_OUR_OWN)}
    if case["name"] in KEYS_PRESENT_WITHOUT_PREDICTIONS:
        assert {result.metrics[key] for key in added} <= {0.0, -1.0}
    else:
        assert not added


@pytest.mark.parametrize("name", ["coco_gt.json", "coco_preds.json"])
def test_coco_files_are_equal(answered: tuple[dict[str, Any], EvaluationResult, Path], name: str) -> None:
    case, _, folder = answered
    assert _read(folder, name) == case["files"][name]


def test_per_image_rows_are_equal(answered: tuple[dict[str, Any], EvaluationResult, Path]) -> None:
    case, _, folder = answered
    ours = [{key: value for key, value in row.items() if key not in ("f1_det", "errors")} for row in _read(folder, "per_image.json")]
    assert ours == case["files"]["per_image.json"]


def test_per_class_rows_are_equal(answered: tuple[dict[str, Any], EvaluationResult, Path]) -> None:
    case, _, folder = answered
    recorded, ours = (
        {row["category"]: float(row["AP"]) for row in csv.DictReader(io.StringIO(text))}
        for text in (case["files"]["per_class.csv"], (folder / "per_class.csv").read_text())
    )
    if case["name"] in KEYS_PRESENT_WITHOUT_PREDICTIONS:
        assert set(ours.values()) <= {0.0}
    else:
        assert ours == pytest.approx(recorded, abs=1e-9)


def test_match_rows_are_equal(answered: tuple[dict[str, Any], EvaluationResult, Path]) -> None:
    case, _, folder = answered
    for name in (name for name in case["files"] if name.startswith("matches")):
        for ours, recorded in zip(_read(folder, name), case["files"][name], strict=True):
            for match in [*ours["matches"], *recorded["matches"]]:
                match["sem_sim"] = pytest.approx(match["sem_sim"], abs=COSINE)
            corrected = INDICES_OF_THE_RECORD.get(case["name"])
            assert {key: value for key, value in ours.items() if key != corrected} == {key: value for key, value in recorded.items() if key != corrected}


def test_what_became_of_unknown_names_is_equal(answered: tuple[dict[str, Any], EvaluationResult, Path]) -> None:
    case, _, folder = answered
    recorded = case["files"].get("semantic_desc_report.json")
    if recorded is None:
        assert not (folder / "semantic_desc_report.json").exists()
        return
    rows = [row | {"score": pytest.approx(row["score"], abs=COSINE)} for row in recorded["rows"]]
    ours = _read(folder, "semantic_desc_report.json")
    assert {key: ours[key] for key in recorded} == recorded | {"rows": rows, "semantic_model": load_encoder(recorded["semantic_model"]).name}


@pytest.mark.parametrize(("name", "pred_index", "gt_index"), [("gt_two_geoms", None, 1), ("pred_two_geoms_no_type", 1, 0)])
def test_indices_are_those_of_the_record(tmp_path: Path, name: str, pred_index: int | None, gt_index: int) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(CASES[name]["input_lines"][0])
    evaluate(path).save(tmp_path / "out")
    row = _read(tmp_path / "out", "matches.jsonl")[0]
    if pred_index is None:
        assert row["unmatched_gt_indices"] == [gt_index]
    else:
        assert [(match["pred_idx"], match["gt_idx"]) for match in row["matches"]] == [(pred_index, gt_index)]
