"""Two runs: differences, their paired intervals, what may be compared at all, and which images changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.compare import Comparison, compare
from coordexp.evaluation.comparison_summary import comparison_summary
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.resampling import LEVEL
from coordexp.evaluation.saved import read_saved
from coordexp.types.errors import DataError

CAT = {"bbox_2d": [10, 10, 50, 50], "desc": "cat"}
DOG = {"bbox_2d": [60, 10, 90, 50], "desc": "dog"}
LONER = {"bbox_2d": [5, 60, 30, 75], "desc": "bird"}


def _forget(records: list[Any], share: float, *, seed: int = 0) -> list[Any]:
    """The same run with fewer predictions."""
    rng = np.random.default_rng(seed)
    return [{**record, "pred": [item for item in record["pred"] if rng.random() > share]} for record in records]


def _compare(a: list[Any], b: list[Any], settings: EvalSettings | None = None, **more: Any) -> Comparison:
    return compare(evaluate(a, settings=settings), evaluate(b, settings=settings), **{"num_resamples": 25, **more})


def test_a_run_does_not_differ_from_itself(make_scenes: Any) -> None:
    records = make_scenes(40, seed=1)
    comparison = _compare(records, records)
    changes = [*comparison.metrics.values(), *(row.f1 for row in comparison.by_class), *(row.f1_miou for row in comparison.by_size)]
    assert len(changes) > 25
    assert all((change.delta, change.low, change.high, change.share_above, change.is_clear) == (0, 0, 0, 0, False) for change in changes)
    assert (comparison.images, comparison.is_comparable, comparison.num_clear_classes) == ((), True, 0)


def test_differences_equal_those_of_evaluating_both_runs_on_each_resample(make_scenes: Any) -> None:
    records = {"b": make_scenes(11, seed=2, crowd=1)}
    records["a"] = _forget(records["b"], 0.3)
    comparison = _compare(records["a"], records["b"], seed=4)
    generator = np.random.default_rng(4)
    drawn = [sorted(generator.integers(0, 11, 11).tolist()) for _ in range(25)]
    a, b = ([evaluate([records[name][place] for place in places]) for places in drawn] for name in "ab")
    for key, change in comparison.metrics.items():
        pairs = [(one.metrics.get(key, -1), other.metrics.get(key, -1)) for one, other in zip(a, b, strict=True)]
        deltas = [other - one for one, other in pairs if -1 not in (one, other)]
        assert (change.low, change.high) == pytest.approx(tuple(np.percentile(deltas, (2.5, 97.5))), abs=1e-12), key
        if key.startswith("f1_det"):
            assert change.share_above == np.mean(np.array(deltas) > 0), key
    for row in comparison.by_size:
        deltas = [other.det.by_size[row.name].f1(0.5) - one.det.by_size[row.name].f1(0.5) for one, other in zip(a, b, strict=True)]
        assert (row.f1.low, row.f1.high) == pytest.approx(tuple(np.percentile(deltas, (2.5, 97.5))), abs=1e-12)


def test_the_other_way_round_every_difference_changes_its_sign(make_scenes: Any) -> None:
    records = make_scenes(40, seed=3)
    forth, back = _compare(records, _forget(records, 0.2)), _compare(_forget(records, 0.2), records)
    for key, change in forth.metrics.items():
        other = back.metrics[key]
        assert (change.delta, change.low, change.high) == pytest.approx((-other.delta, -(other.high or 0), -(other.low or 0)), abs=1e-12)
    assert [row.gained for row in forth.images] == [row.lost for row in back.images]


def test_a_clear_loss_is_called_clear(make_scenes: Any) -> None:
    records = make_scenes(60, seed=4)
    change = _compare(records, _forget(records, 0.4), num_resamples=200).metrics["f1_det@0.50_recall"]
    assert change.high is not None
    assert change.high < 0
    assert (change.is_clear, change.share_above) == (True, 0.0)


def test_classes_come_by_falling_change_and_only_with_ground_truth(record: Any) -> None:
    unicorn = {**LONER, "desc": "unicorn"}
    records = [record([CAT, DOG], [CAT, unicorn], image="a.png"), record([LONER], [LONER], image="b.png")]
    other = [{**records[0], "pred": [DOG, unicorn]}, records[1]]
    rows = _compare(records, other).by_class
    assert [(row.name, row.f1.a, row.f1.b) for row in rows] == [("dog", 0.0, 1.0), ("bird", 1.0, 1.0), ("cat", 1.0, 0.0)]
    assert (rows[0].counts_a.num_pred, rows[0].counts_b.num_pred, rows[0].counts_b.num_gt) == (0, 1, 1)


def test_spellings_of_one_name_are_one_class_in_both_runs(record: Any) -> None:
    a = [record([{**CAT, "desc": "Stop Sign"}], [{**CAT, "desc": "zebra"}])]
    b = [record([{**CAT, "desc": "stop_sign"}], [{**CAT, "desc": "STOP sign"}])]
    assert [(row.f1.a, row.f1.b) for row in _compare(a, b).by_class] == [(0.0, 1.0)]


def test_changed_images_name_the_objects_that_only_one_run_finds(record: Any) -> None:
    gt = [CAT, DOG, LONER]
    same = record(gt, [CAT], image="same.png")
    a = [same, record(gt, [DOG, LONER], image="one.png"), record(gt, [], image="two.png")]
    b = [same, record(gt, [CAT, LONER, LONER], image="one.png"), record(gt, gt, image="two.png")]
    comparison = _compare(a, b)
    assert [(row.place, row.gained, row.lost, row.false_a, row.false_b) for row in comparison.images] == [(2, (6, 7, 8), (), 0, 0), (1, (3,), (4,), 0, 1)]
    summary: Any = json.loads(json.dumps(comparison_summary(comparison)))
    assert summary["images"][1] == {
        "image_id": 1,
        "file_name": "one.png",
        "gained": [{"index": 0, "desc": "cat"}],
        "lost": [{"index": 1, "desc": "dog"}],
        "false": [0, 1],
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image": "c.png"}, "image 2 is 'c.png', but 'b.png' in A"),
        ({"gt": [CAT, CAT]}, "b.png has 2 ground truths, but 1 in A"),
        ({"gt": [DOG]}, "b.png: ground truth 0 is 'dog', but 'cat' in A"),
        (None, "has 1 images, A has 2"),
    ],
    ids=["other image", "more ground truth", "other name", "fewer images"],
)
def test_runs_on_different_data_are_refused_with_the_first_difference(record: Any, change: Any, sentence: str) -> None:
    a = [record([CAT], image="a.png"), record([CAT], image="b.png")]
    b = [a[0], {**a[1], **change}] if change is not None else a[:1]
    with pytest.raises(DataError) as error:
        _compare(a, b)
    assert str(error.value) == f"B: {sentence}; run inference on the same data file for both"


def test_runs_under_different_rules_are_compared_and_marked(make_scenes: Any) -> None:
    records = make_scenes(8, seed=5)
    comparison = compare(evaluate(records), evaluate(records, settings=EvalSettings(pixel_mode="exact", prompt="gt")), num_resamples=0)
    assert comparison.rule_differences == ("prompt: unknown, gt", "pixel_mode: int, exact")
    assert comparison_summary(comparison)["comparable"] is False


@pytest.mark.parametrize("points", [[10, 10, 50, 51], [10, 10, 50, 10, 50, 50, 10, 50]], ids=["box", "polygon"])
def test_ground_truth_that_moved_makes_numbers_incomparable(record: Any, points: list[int]) -> None:
    moved = {"type": "bbox_2d" if len(points) == 4 else "poly", "points": points, "desc": "cat"}
    comparison = _compare([record([CAT]), record([CAT], image="b.png")], [record([CAT]), record([moved], image="b.png")])
    assert comparison.rule_differences == ("ground-truth boxes of 1 images, the first is b.png",)


def test_without_resamples_there_are_differences_and_no_intervals(make_scenes: Any) -> None:
    records = make_scenes(10, seed=6)
    comparison = _compare(_forget(records, 0.5), records, num_resamples=0)
    change = comparison.metrics["f1_det@0.50"]
    assert change.delta > 0
    assert (change.low, change.high, change.share_above, change.is_clear, comparison.warnings) == (None, None, None, False, ())


def test_ap_has_an_interval_only_where_both_runs_have_scores_that_rank(make_scenes: Any) -> None:
    records = make_scenes(30, seed=7)
    bare = [{**record, "pred": [{**item, "score": None} for item in record["pred"]]} for record in records]
    comparison = _compare(records, bare)
    assert comparison.metrics["bbox_AP"].low is None
    assert comparison.metrics["f1_det@0.50"].low == 0
    assert comparison.rule_differences == ("score_mode: model, constant",)


def test_a_run_without_predictions_has_no_scores_and_can_be_compared(make_scenes: Any) -> None:
    records = make_scenes(10, seed=8)
    silent = [{**record, "pred": []} for record in records]
    for pair in ((silent, records), (records, silent)):
        comparison = _compare(*pair, num_resamples=0)
        assert {comparison.a.protocol.score_mode, comparison.b.protocol.score_mode} == {"constant", "model"}
        assert comparison.rule_differences == ()


def test_numbers_that_a_run_does_not_define_are_left_out(record: Any) -> None:
    comparison = _compare([record([CAT], [])], [record([CAT], [CAT])])
    assert "bbox_APs" not in comparison.metrics
    assert "mean_matched_iou" not in comparison.metrics
    assert comparison.metrics["bbox_AP"].delta == pytest.approx(1.0)


def test_few_images_are_warned_about(make_scenes: Any) -> None:
    records = make_scenes(30, seed=8)
    assert _compare(records[:29], records[:29]).warnings == ("intervals from 29 images are too narrow to be believed",)
    assert _compare(records, records).warnings == ()


def test_runs_without_images_are_equal() -> None:
    comparison = _compare([], [])
    assert (comparison.metrics["f1_det@0.50"].delta, comparison.by_class, comparison.num_resamples) == (0.0, (), 0)


def test_the_summary_holds_what_the_comparison_holds(make_scenes: Any) -> None:
    records = make_scenes(35, seed=9)
    comparison = _compare(_forget(records, 0.3), records, names=("before", "after"), seed=3)
    summary: Any = json.loads(json.dumps(comparison_summary(comparison)))
    change = comparison.metrics["f1_det_miou"]
    assert summary["metrics"]["f1_det_miou"] == {
        "a": change.a,
        "b": change.b,
        "delta": change.delta,
        "interval": [change.low, change.high],
        "share_b_above": change.share_above,
    }
    assert (summary["a"]["name"], summary["b"]["name"], summary["comparable"], summary["num_images"]) == ("before", "after", True, 35)
    assert summary["bootstrap"] == {"num_resamples": 25, "seed": 3, "level": LEVEL, "method": "percentiles of paired resamples of the images"}
    assert [row["name"] for row in summary["by_class"]] == [row.name for row in comparison.by_class]


@pytest.fixture
def evaluated(tmp_path: Path, make_scenes: Any) -> Path:
    """A run folder with its evaluation."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "gt_vs_pred.jsonl").write_text("\n".join(json.dumps(record) for record in make_scenes(5, seed=1)))
    evaluate(run / "gt_vs_pred.jsonl", settings=EvalSettings(pixel_mode="exact", iou_thrs=(0.4, 0.5))).save(run / "eval")
    return run


def test_the_folder_of_an_evaluation_says_what_it_measured_and_how(evaluated: Path) -> None:
    saved = read_saved(evaluated / "eval")
    assert saved.predictions == evaluated / "gt_vs_pred.jsonl"
    assert (saved.protocol.pixel_mode, saved.protocol.iou_thrs, saved.protocol.label_rule) == ("exact", (0.4, 0.5), "exact")


def test_a_run_that_was_moved_with_its_evaluation_is_found(evaluated: Path) -> None:
    moved = evaluated.rename(evaluated.parent / "moved")
    assert read_saved(moved / "eval").predictions == moved / "gt_vs_pred.jsonl"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not readable as JSON"),
        ("[]", "does not record which predictions it measured"),
        ('{"predictions": null, "metrics": {}}', "does not record which predictions it measured"),
        ('{"predictions": "/gone/gt_vs_pred.jsonl"}', "the predictions /gone/gt_vs_pred.jsonl cannot be found"),
        ('{"predictions": "gt_vs_pred.jsonl", "protocol": {"prompt": "none"}}', "does not record the rules of the evaluation"),
        ('{"predictions": "gt_vs_pred.jsonl", "protocol": {"label_encoder": 5}}', "does not record the rules of the evaluation"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "not readable as JSON"),
    ],
    ids=["broken", "no object", "from memory", "gone", "without rules", "rules of another type", "too deep"],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "metrics.json").write_text(text)
    if "gone" not in text:
        (tmp_path / "gt_vs_pred.jsonl").write_text("")
    with pytest.raises(DataError, match=sentence):
        read_saved(tmp_path / "eval")
