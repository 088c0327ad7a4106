"""The confidence sweep: exact at every threshold, although the matches of a subset are no subset of the matches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.sweep import MAX_POINTS, ConfidenceSweep, OperatingPoint

Record = dict[str, Any]
RANKED = EvalSettings(score_mode="model", with_coco=False)


def _crowded(num_images: int, *, seed: int, decimals: int) -> list[Record]:
    """Heaps of boxes of two classes, so that predictions contend for ground truths and ground truths for predictions."""
    rng = np.random.default_rng(seed)

    def heap(count: int) -> list[Record]:
        corners = rng.integers(0, 20, (count, 2))
        sides = rng.integers(25, 45, (count, 2))
        return [{"bbox_2d": [*low.tolist(), *(low + side).tolist()], "desc": "ab"[rng.integers(2)]} for low, side in zip(corners, sides, strict=True)]

    records: list[Record] = []
    for index in range(num_images):
        pred = [{**item, "score": round(float(rng.random()), decimals)} for item in heap(int(rng.integers(0, 16)))]
        records.append({"image": f"{index}.png", "width": 100, "height": 100, "gt": heap(int(rng.integers(0, 9))), "pred": pred})
    return records


def _kept(records: list[Record], score: float) -> EvaluationResult:
    """An evaluation of the predictions with at least this score."""
    return evaluate([{**record, "pred": [item for item in record["pred"] if item["score"] >= score]} for record in records], settings=RANKED)


def _sweep(records: list[Record]) -> ConfidenceSweep:
    sweep = evaluate(records, settings=RANKED).analysis.sweep
    assert sweep is not None
    return sweep


@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct scores", "tied scores"])
@pytest.mark.parametrize("seed", range(4))
def test_each_threshold_has_the_numbers_of_an_evaluation_of_what_is_left(seed: int, decimals: int) -> None:
    records = _crowded(12, seed=seed, decimals=decimals)
    sweep = _sweep(records)
    assert len(sweep.scores) >= 10
    for place, score in enumerate(sweep.scores.tolist()):
        left = _kept(records, score)
        numbers = (left.metrics["f1_det@0.50"], left.metrics["f1_det@0.50_precision"], left.metrics["f1_det@0.50_recall"], len(left.data.pred))
        assert (sweep.f1[place], sweep.precision[place], sweep.recall[place], sweep.num_pred[place]) == numbers


def test_counting_the_matches_of_all_predictions_would_be_wrong() -> None:
    records = _crowded(12, seed=0, decimals=9)
    sweep, matched = _sweep(records), evaluate(records, settings=RANKED)
    scores = matched.scores.scores
    tp = np.array([(scores[matched.det.matches.pred] >= score).sum() for score in sweep.scores])
    assert (tp <= np.round(sweep.precision * sweep.num_pred)).all()
    assert (tp < np.round(sweep.precision * sweep.num_pred)).any()


@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct scores", "tied scores"])
def test_the_best_point_is_the_best_of_all_scores_for_the_set_and_for_each_class(decimals: int) -> None:
    records = _crowded(8, seed=5, decimals=decimals)
    sweep, labels = _sweep(records), evaluate(records).labels
    scores = sorted({item["score"] for record in records for item in record["pred"]}, reverse=True)
    left = [_kept(records, score) for score in scores]
    totals = [result.det.total.f1(0.5) for result in left]
    assert (sweep.best.f1, sweep.best.score) == (max(totals), scores[int(np.argmax(totals))])
    for place, name in enumerate(labels.classes):
        f1 = [next(row.counts.f1(0.5) for row in result.per_class if row.name == name) for result in left]
        best = sweep.best_by_class[place]
        assert best is not None
        assert best.f1 == max(f1)
        assert best.score == max(score for score, value in zip(scores, f1, strict=True) if value == max(f1))


def test_dropping_a_prediction_frees_its_ground_truth_for_another_one(record: Any) -> None:
    gt = [{"bbox_2d": [0, 0, 40, 40], "desc": "cat"}]
    near, nearer = ({"bbox_2d": [0, 0, 40, side], "desc": "cat", "score": score} for side, score in ((30, 0.9), (39, 0.2)))
    sweep = _sweep([record(gt, [near, nearer])])
    assert sweep.scores.tolist() == [0.2, 0.9]
    assert sweep.f1.tolist() == [pytest.approx(2 / 3), 1.0]
    assert sweep.best == OperatingPoint(score=0.9, precision=1.0, recall=1.0, f1=1.0, num_pred=1)


def test_the_lowest_threshold_is_the_headline_number(make_scenes: Any) -> None:
    result = evaluate(make_scenes(60, seed=3, crowd=5))
    sweep = result.analysis.sweep
    assert sweep is not None
    assert (sweep.f1[0], sweep.num_pred[0]) == (result.metrics["f1_det@0.50"], len(result.data.pred))
    assert len(sweep.scores) <= MAX_POINTS < len(np.unique(result.scores.scores))
    assert sweep.best.score in sweep.scores
    assert (np.diff(sweep.scores) > 0).all()
    assert (result.metrics["best_f1"], result.metrics["best_score"]) == (sweep.best.f1, sweep.best.score)


@pytest.mark.parametrize(
    ("scores", "mode", "why"),
    [((0.4, 0.4), "auto", "no scores that differ"), ((0.4, 0.7), "constant", "no scores that differ"), ((), "model", "there is no prediction")],
    ids=["equal scores", "constant as asked", "no prediction"],
)
def test_without_a_ranking_there_is_no_sweep_and_a_sentence_says_why(record: Any, scores: tuple[float, ...], mode: Any, why: str) -> None:
    pred = [{"bbox_2d": [5 * place, 0, 5 * place + 9, 9], "desc": "cat", "score": score} for place, score in enumerate(scores)]
    analysis = evaluate([record([{"bbox_2d": [0, 0, 9, 9], "desc": "cat"}], pred)], settings=EvalSettings(score_mode=mode)).analysis
    assert (analysis.sweep, analysis.calibration, analysis.nms, analysis.curves) == (None, None, None, ())
    assert any(why in sentence for sentence in analysis.absent)


def test_equal_scores_make_one_threshold(record: Any) -> None:
    pred = [{"bbox_2d": [20 * place, 0, 20 * place + 9, 9], "desc": "cat", "score": 0.5} for place in range(3)]
    sweep = _sweep([record([{"bbox_2d": [0, 0, 9, 9], "desc": "cat"}], pred)])
    assert (sweep.scores.tolist(), sweep.num_pred.tolist(), sweep.precision.tolist(), sweep.recall.tolist()) == ([0.5], [3], [1 / 3], [1.0])


def test_a_class_that_one_side_lacks_has_no_best_point(record: Any) -> None:
    cat, dog, cow = ({"bbox_2d": [0, 0, 9, 9], "desc": name, "score": 0.5} for name in ("cat", "dog", "cow"))
    sweep = _sweep([record([cat, dog], [cat, cow])])
    assert [point is None for point in sweep.best_by_class] == [False, True, True]
