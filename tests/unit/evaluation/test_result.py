"""The result: its folder, its table, its protocol, and the labels behind it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation import artifacts
from coordexp.evaluation.artifacts import is_artifact, per_class_csv
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.ingest import ingest_records
from coordexp.evaluation.labels import label_exactly
from coordexp.semantics.normalize import normalize_label
from coordexp.types.errors import OutputError


def _object(desc: str, x: int = 0) -> dict[str, Any]:
    return {"bbox_2d": [x, 0, x + 10, 10], "desc": desc}


def test_saving_replaces_an_earlier_run_and_leaves_other_files(tmp_path: Path, make_scenes: Any) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "matches@0.90.jsonl").write_text("stale")
    evaluate(make_scenes(5, seed=1)).save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    artifacts = {"metrics.json", "per_class.csv", "per_image.json", "coco_gt.json", "coco_preds.json", "matches.jsonl", "matches@0.30.jsonl"}
    artifacts |= {"analysis.json", "pr_curves.csv"}
    assert names == artifacts | {"notes.txt"}
    assert all(is_artifact(name) for name in artifacts)


def test_an_error_while_writing_leaves_the_earlier_results(tmp_path: Path, make_scenes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "eval"
    evaluate(make_scenes(5, seed=1)).save(folder)
    before = (folder / "metrics.json").read_text()
    result = evaluate(make_scenes(9, seed=2))
    monkeypatch.setattr(artifacts, "per_class_csv", lambda result: (_ for _ in ()).throw(OSError(28, "full", "x")))
    with pytest.raises(OutputError, match="no space left"):
        result.save(folder)
    assert (folder / "metrics.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["eval"]


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path, make_scenes: Any) -> None:
    (tmp_path / "eval").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        evaluate(make_scenes(2, seed=1)).save(tmp_path / "eval")


def test_metrics_json_says_under_which_rules(tmp_path: Path, make_scenes: Any) -> None:
    evaluate(make_scenes(20, seed=1), settings=EvalSettings(pixel_mode="exact", prompt="all")).save(tmp_path)
    summary = json.loads((tmp_path / "metrics.json").read_text())
    assert summary["protocol"]["label"] == "prompt=all · labels=exact · f1ish scope=annotated · pixels=exact · scores=model · AP@0.50:0.95"
    assert summary["f1_det_by_num_objects"]["0"]["num_gt"] == 0
    assert summary["num_images"] == 20


def test_two_protocols_name_their_differences(make_scenes: Any) -> None:
    first, second = (evaluate(make_scenes(3, seed=1), settings=EvalSettings(pixel_mode=mode)).protocol for mode in ("int", "exact"))
    assert first.differences(second) == ("pixel_mode: int, exact",)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (EvalSettings(f1ish_pred_scope="all"), " · f1ish scope=all · "),
        (EvalSettings(with_f1ish=False), "labels=exact · pixels=int"),
        (EvalSettings(iou_thrs=(0.5, 0.75)), " · AP@0.50,0.75"),
        (EvalSettings(iou_thrs=(0.5,)), " · AP@0.50"),
    ],
    ids=["scope", "no f1ish", "two thresholds are no range", "one threshold"],
)
def test_the_protocol_names_what_was_used(settings: EvalSettings, part: str, make_scenes: Any) -> None:
    assert part in f"{evaluate(make_scenes(3, seed=1), settings=settings).protocol.label}"


def test_two_scopes_of_f1ish_differ_and_a_scope_and_none_do_not(make_scenes: Any) -> None:
    def protocol(**settings: Any) -> Any:
        return evaluate(make_scenes(3, seed=1), settings=EvalSettings(**settings)).protocol

    assert protocol().differences(protocol(f1ish_pred_scope="all")) == ("pred_scope: annotated, all",)
    assert protocol().differences(protocol(with_f1ish=False)) == ()


def test_names_in_the_table_are_quoted(record: Any) -> None:
    name = 'a, "b"\nc'
    result = evaluate([record([_object(name)], [_object(name)])])
    rows = list(csv.reader(io.StringIO(per_class_csv(result))))
    assert [row[:2] for row in rows] == [["category", "AP"], [name, rows[1][1]]]


def test_raw_values_that_json_lacks_are_written_as_texts(tmp_path: Path, record: Any) -> None:
    evaluate([record(pred=[{"bbox_2d": [float("nan"), 0, [1], 1], "desc": "a"}])]).save(tmp_path)
    text = (tmp_path / "per_image.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)[0]["invalid_pred"][0]["raw"]["bbox_2d"] == ["nan", 0, [1], 1]


def test_categories_are_exact_texts_and_classes_are_normalized_ones(record: Any) -> None:
    data = ingest_records([record([_object(" Cat "), _object("cat", 20)], [_object("CAT"), _object("cat", 20), _object("dog", 40)])])
    labels = label_exactly(data)
    assert labels.categories == ("Cat", "cat")
    assert labels.classes == ("Cat", "dog")
    assert labels.pred_category.tolist() == [1, 2, 0]
    assert labels.counters == {"unknown_dropped": 1}


def test_normalization_folds_case_separators_and_white_space() -> None:
    assert normalize_label("  Wineglass_(stem)/cup ") == "wineglass stem cup"


def test_a_result_prints_its_headline(make_scenes: Any) -> None:
    text = str(evaluate(make_scenes(10, seed=1)))
    assert text.startswith("f1_det@0.50 0.")
    assert "10 images" in text
