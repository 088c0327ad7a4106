"""The analysis as part of a result and as files, also where there is next to nothing to analyse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.analysis import analysis_metrics
from coordexp.evaluation.error_types import ErrorType
from coordexp.evaluation.evaluate import EvalSettings, evaluate

GUIDE = Path(__file__, "../../../../docs/eval/README.md").resolve()
CAT = {"bbox_2d": [0, 0, 40, 40], "desc": "cat", "score": 0.5}
DOG = {"bbox_2d": [50, 0, 90, 40], "desc": "dog", "score": 0.7}


def _read(path: Path) -> Any:
    def refuse(value: str) -> None:
        raise ValueError(value)

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("gt", "pred"),
    [([], []), ([CAT], []), ([], [CAT, DOG]), ([CAT], [CAT, {**CAT, "score": 0.4}]), ([CAT, DOG], [CAT, {**DOG, "score": 0.5}]), ([CAT], [CAT])],
    ids=["nothing", "no prediction", "no ground truth", "one class", "equal scores", "one prediction"],
)
@pytest.mark.parametrize("mode", ["auto", "model", "constant"])
def test_every_number_is_finite_whatever_is_missing(record: Any, tmp_path: Path, gt: list[Any], pred: list[Any], mode: Any) -> None:
    result = evaluate([record(gt, pred), record(image="b.png")], settings=EvalSettings(score_mode=mode))
    result.save(tmp_path)
    saved, metrics = _read(tmp_path / "analysis.json"), _read(tmp_path / "metrics.json")
    assert set(saved["errors"]["types"]) == set(ErrorType)
    assert all(isinstance(value, float) for value in metrics["metrics"].values())
    assert metrics["analysis"]["health"] == saved["health"]
    assert (saved["sweep"] is None) == (
        mode == "constant" or len(pred) < (2 if mode == "auto" else 1) or (mode == "auto" and pred[0]["score"] == pred[1]["score"])
    )


def test_without_images_there_is_an_analysis(tmp_path: Path) -> None:
    evaluate([]).save(tmp_path)
    saved = _read(tmp_path / "analysis.json")
    assert (saved["curves"], saved["confusion"]["entries"], saved["absent"]) == ([], [], ["nothing about confidence: there is no prediction"])
    assert not (tmp_path / "pr_curves.csv").exists()


def test_the_file_names_classes_images_and_objects(record: Any, tmp_path: Path) -> None:
    broken = {"bbox_2d": [5, 5, 5, 5], "desc": "cat"}
    result = evaluate([record([CAT], [CAT]), record([broken, CAT], [broken, broken, {**CAT, "desc": "cow", "score": 0.9}], image="b.png")])
    result.save(tmp_path)
    saved, summary = _read(tmp_path / "analysis.json"), _read(tmp_path / "metrics.json")["analysis"]
    assert sorted(saved["confusion"]["entries"]) == [["cat", "cat", 1], ["cat", "cow", 1]]
    assert saved["confusion"]["top"] == summary["confusions"] == [{"gt": "cat", "pred": "cow", "count": 1, "share": 0.5}]
    error = saved["errors"]["types"]["classification"]
    assert (error["count"], error["by_class"]) == (1, {"cow": 1})
    assert error["examples"] == [{"image_id": 1, "file_name": "b.png", "pred_idx": 2, "gt_idx": 1, "iou": 1.0, "score": 0.9}]
    assert saved["sweep"]["best_by_class"].keys() == {"cat"}


def test_the_analysis_is_the_same_whatever_the_order_of_lines(make_scenes: Any) -> None:
    records = make_scenes(40, seed=5)
    first, second = evaluate(records).analysis, evaluate(records[::-1]).analysis
    assert [found.count for found in first.errors.kinds.values()] == [found.count for found in second.errors.kinds.values()]
    assert first.sweep is not None
    assert second.sweep is not None
    assert first.sweep.best == second.sweep.best
    assert sorted(first.confusion.count.tolist()) == sorted(second.confusion.count.tolist())
    assert first.health.pred_objects == second.health.pred_objects


def _assert_holds(whole: Any, part: Any) -> None:
    """Every key of `part` is in `whole`, with the same value."""
    if not isinstance(part, dict):
        assert whole == pytest.approx(part) if isinstance(part, float) else whole == part
        return
    for key, value in part.items():
        _assert_holds(whole[key], value)


def test_the_example_of_the_guide_is_what_comes_out(tmp_path: Path) -> None:
    _, _, section = GUIDE.read_text().partition("## Analysis\n")
    lines, expected = re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)[:2]
    (tmp_path / "lines.jsonl").write_text(lines)
    result = evaluate(tmp_path / "lines.jsonl")
    result.save(tmp_path / "out")
    _assert_holds(_read(tmp_path / "out" / "analysis.json"), json.loads(expected))


def test_the_guide_names_every_headline_key(make_scenes: Any) -> None:
    analysis = evaluate([{**record, "finish_reason": "stop"} for record in make_scenes(5, seed=1)]).analysis
    _, _, section = GUIDE.read_text().partition("## Analysis\n")
    names = {re.sub(r"errors/.*_delta_f1", "errors/<type>_delta_f1", key).removeprefix("health/") for key in analysis_metrics(analysis)}
    assert len(names) == 14
    assert [name for name in names if name not in section] == []
