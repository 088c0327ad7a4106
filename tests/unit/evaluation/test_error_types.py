"""Error types: a plain form of TIDE decides what is right, and a mended data set decides what a type costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hotcoco import metrics as reference

from coordexp.evaluation.coco import ErrorCosts, coco_numbers
from coordexp.evaluation.error_types import ErrorType
from coordexp.evaluation.evaluate import EvalSettings, evaluate, evaluate_coco
from coordexp.evaluation.overlaps import box_iou_of_pairs
from coordexp.evaluation.result import EvaluationResult

Record = dict[str, Any]
TYPES = tuple(ErrorType)
GT = [{"bbox_2d": [0, 0, 40, 40], "desc": "cat"}, {"bbox_2d": [50, 0, 90, 40], "desc": "dog"}]


@dataclass(frozen=True, slots=True)
class Plain:
    """TIDE by loops, for a given matching."""

    type_of_pred: dict[int, ErrorType]
    about: dict[int, int]
    missed: set[int]


def _plain_tide(result: EvaluationResult, gt_of_pred: dict[int, int]) -> Plain:
    data, labels = result.data, result.labels
    types: dict[int, ErrorType] = {}
    about: dict[int, int] = {}
    for pred in range(len(data.pred)):
        if pred in gt_of_pred:
            continue
        near = np.flatnonzero(data.gt.image == data.pred.image[pred])
        iou = box_iou_of_pairs(np.repeat(data.pred.boxes[[pred]], len(near), axis=0), data.gt.boxes[near])
        is_same = labels.gt_class[near] == labels.pred_class[pred]
        same, other = (float((iou * mask).max(initial=0.0)) for mask in (is_same, ~is_same))
        if 0.1 <= same < 0.5:
            types[pred], about[pred] = ErrorType.LOCALIZATION, int(near[(iou * is_same).argmax()])
        elif other >= 0.5:
            types[pred], about[pred] = ErrorType.CLASSIFICATION, int(near[(iou * ~is_same).argmax()])
        else:
            types[pred] = ErrorType.DUPLICATE if same >= 0.5 else ErrorType.BOTH if other >= 0.1 else ErrorType.BACKGROUND
    free = set(range(len(data.gt))) - set(gt_of_pred.values())
    return Plain(types, about, free - set(about.values()))


def _matches_of_f1(result: EvaluationResult) -> dict[int, int]:
    return dict(zip(result.det.matches.pred.tolist(), result.det.matches.gt.tolist(), strict=True))


def _matches_of_coco(result: EvaluationResult) -> dict[int, int]:
    """By falling score, each prediction takes the best free ground truth of its class."""
    data, labels, scores = result.data, result.labels, result.scores.scores
    taken: dict[int, int] = {}
    for pred in sorted(range(len(data.pred)), key=lambda pred: -scores[pred]):
        near = [gt for gt in np.flatnonzero(data.gt.image == data.pred.image[pred]).tolist() if gt not in taken.values()]
        near = [gt for gt in near if labels.gt_class[gt] == labels.pred_class[pred]]
        iou = {gt: float(box_iou_of_pairs(data.pred.boxes[[pred]], data.gt.boxes[[gt]])[0]) for gt in near}
        if iou and max(iou.values()) >= 0.5:
            taken[pred] = max(iou, key=lambda gt: (iou[gt], gt))
    return taken


@pytest.mark.parametrize("seed", range(4))
def test_types_equal_those_of_a_plain_loop(make_scenes: Any, seed: int) -> None:
    result = evaluate(make_scenes(25, seed=seed, crowd=3))
    errors, plain = result.analysis.errors, _plain_tide(result, _matches_of_f1(result))
    assert {pred: TYPES[code] for pred, code in enumerate(errors.type_of_pred.tolist()) if code >= 0} == plain.type_of_pred
    assert set(np.flatnonzero(errors.is_missed).tolist()) == plain.missed
    for kind, found in errors.kinds.items():
        count = len(plain.missed) if kind is ErrorType.MISSED else list(plain.type_of_pred.values()).count(kind)
        assert found.count == found.by_class.sum() == count


def _mended(records: Sequence[Record], result: EvaluationResult, kind: ErrorType) -> list[Record]:
    """The data set with this type of error fixed: one prediction becomes each free ground truth it was about, the others go; missed ones are not asked for."""
    data, errors = result.data, result.analysis.errors
    plain, mended = _plain_tide(result, _matches_of_f1(result)), copy.deepcopy(list(records))
    fixed = set(result.det.matches.gt.tolist())
    for pred in np.flatnonzero(errors.type_of_pred == TYPES.index(kind)).tolist():
        items, gt = mended[data.pred.image[pred]]["pred"], plain.about.get(pred)
        target = None if gt is None or gt in fixed else records[data.gt.image[gt]]["gt"][data.gt.index[gt]]
        items[data.pred.index[pred]] = target
        fixed |= set() if gt is None else {gt}
    for gt in np.flatnonzero(errors.is_missed).tolist() if kind is ErrorType.MISSED else ():
        mended[data.gt.image[gt]]["gt"][data.gt.index[gt]] = None
    return [{**record, **{side: [item for item in record[side] if item is not None] for side in ("gt", "pred")}} for record in mended]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_the_cost_in_f1_is_what_an_evaluation_of_the_mended_set_gains(make_scenes: Any, kind: ErrorType) -> None:
    records = make_scenes(60, seed=11, crowd=3)
    result = evaluate(records)
    found = result.analysis.errors.kinds[kind]
    gained = evaluate(_mended(records, result, kind)).metrics["f1_det@0.50"] - result.metrics["f1_det@0.50"]
    assert found.count
    assert found.delta_f1 == pytest.approx(gained, abs=1e-12)
    assert result.metrics[f"errors/{kind}_delta_f1"] == found.delta_f1


def _mean_ap(result: EvaluationResult, *, label: Callable[[int], int | None], is_right: Callable[[int], bool], unasked: set[int]) -> float:
    """AP50 over categories, when prediction p has the label `label(p)` (None: it goes) and is a match where `is_right(p)`."""
    scores, found = result.scores.scores, []
    for category in np.unique(result.labels.gt_class).tolist():
        num_gt = sum(gt not in unasked for gt in np.flatnonzero(result.labels.gt_class == category).tolist())
        preds = [pred for pred in range(len(scores)) if label(pred) == category]
        if num_gt:
            found.append(reference.average_precision(scores[preds], [is_right(pred) for pred in preds], num_gt))
    return float(np.mean(found))


def _plain_costs(result: EvaluationResult) -> dict[ErrorType, float]:
    """AP50 with one type fixed, as TIDE does it: of all errors about a free ground truth, the one with the highest score may become its match."""
    matches, own = _matches_of_coco(result), result.labels.pred_class.tolist()
    plain, best = _plain_tide(result, matches), dict[int, int]()
    for pred in sorted(plain.about, key=lambda pred: result.scores.scores[pred]):
        best[plain.about[pred]] = pred
    becomes = {pred: gt for gt, pred in best.items() if gt not in matches.values()}
    base = _mean_ap(result, label=lambda pred: own[pred], is_right=lambda pred: pred in matches, unasked=set())
    costs = {ErrorType.MISSED: _mean_ap(result, label=lambda pred: own[pred], is_right=lambda pred: pred in matches, unasked=plain.missed) - base}
    for kind in TYPES[:-1]:
        gone = {pred for pred, other in plain.type_of_pred.items() if other is kind and pred not in becomes}
        now = {pred: gt for pred, gt in becomes.items() if plain.type_of_pred[pred] is kind}
        label = {pred: None if pred in gone else int(result.labels.gt_class[now[pred]]) if pred in now else own[pred] for pred in range(len(own))}
        costs[kind] = _mean_ap(result, label=label.get, is_right=lambda pred, now=now: pred in matches or pred in now, unasked=set()) - base
    return costs


@pytest.mark.parametrize("seed", range(3))
def test_the_cost_in_ap_equals_that_of_a_plain_form_of_tide(make_scenes: Any, seed: int) -> None:
    result = evaluate(make_scenes(30, seed=seed, crowd=2))
    errors = result.analysis.errors
    assert errors.base_ap == pytest.approx(result.metrics["bbox_AP50"], abs=1e-12)
    assert {kind: found.delta_ap for kind, found in errors.kinds.items()} == pytest.approx(_plain_costs(result), abs=1e-9)


@pytest.mark.parametrize("is_lvis", [False, True], ids=["crowd regions", "LVIS"])
def test_the_base_of_the_costs_is_ap_also_where_counting_ignores_predictions(make_scenes: Any, write_coco_files: Any, is_lvis: bool) -> None:
    result = evaluate_coco(*write_coco_files(make_scenes(40, seed=3, crowd=2), is_lvis=is_lvis))
    assert result.data.coco is not None
    assert len(result.data.coco.counted) < len(result.data.coco.pred)
    assert result.analysis.errors.base_ap == pytest.approx(result.metrics["bbox_AP50"], abs=1e-12)
    assert (result.analysis.errors.type_of_pred >= 0).sum() == result.metrics["f1_det@0.50_fp"]


def test_costs_in_ap_need_the_threshold_they_are_about(make_scenes: Any) -> None:
    records = make_scenes(10, seed=1)
    result = evaluate(records)
    numbers = (
        coco_numbers(result.data, result.labels, result.scores.scores, iou_type="bbox", iou_thrs=thrs, with_error_costs=True) for thrs in ((0.3,), (0.3, 0.5))
    )
    assert [isinstance(found.error_costs, ErrorCosts) for found in numbers] == [False, True]
    for settings in (EvalSettings(iou_thrs=(0.3,)), EvalSettings(score_mode="constant"), EvalSettings(with_coco=False)):
        analysis = evaluate(records, settings=settings).analysis
        assert {found.delta_ap for found in analysis.errors.kinds.values()} == {None}
        assert any("costs in AP" in sentence for sentence in analysis.absent)


@pytest.mark.parametrize(
    ("pred", "expected"),
    [
        ([{"bbox_2d": [0, 0, 40, 15], "desc": "cat"}], ErrorType.LOCALIZATION),
        ([{"bbox_2d": [0, 0, 40, 39], "desc": "cow"}], ErrorType.CLASSIFICATION),
        ([GT[0], {"bbox_2d": [0, 0, 40, 39], "desc": "cat"}], ErrorType.DUPLICATE),
        ([{"bbox_2d": [0, 0, 40, 15], "desc": "cow"}], ErrorType.BOTH),
        ([{"bbox_2d": [0, 50, 40, 79], "desc": "cat"}], ErrorType.BACKGROUND),
        ([{"bbox_2d": [0, 37, 40, 79], "desc": "cat"}], ErrorType.BACKGROUND),
        ([{"bbox_2d": [25, 0, 90, 40], "desc": "cat"}], ErrorType.LOCALIZATION),
    ],
    ids=["half the box", "wrong name", "said twice", "half the box and wrong name", "nothing there", "hardly anything there", "also on a dog"],
)
def test_the_type_of_one_error(record: Any, pred: list[Any], expected: ErrorType) -> None:
    result = evaluate([record(GT, pred)])
    errors = result.analysis.errors
    assert TYPES[errors.type_of_pred[-1]] is expected
    assert errors.kinds[expected].count == 1
    example = errors.kinds[expected].examples[0]
    assert (example.image, example.pred, example.score) == (0, len(pred) - 1, None)
    assert (example.gt is None) == (expected is ErrorType.BACKGROUND)


def test_a_missed_ground_truth_is_one_that_no_prediction_is_about(record: Any) -> None:
    errors = evaluate([record(GT, [{"bbox_2d": [0, 0, 40, 39], "desc": "cow"}])]).analysis.errors
    assert errors.is_missed.tolist() == [False, True]
    assert errors.kinds[ErrorType.MISSED].by_class.tolist() == [0, 1, 0]
    assert errors.kinds[ErrorType.CLASSIFICATION].by_class.tolist() == [0, 0, 1]


def test_examples_are_the_most_confident_errors_and_at_most_two_of_an_image(make_scenes: Any) -> None:
    result = evaluate(make_scenes(40, seed=2, crowd=4))
    found = result.analysis.errors.kinds[ErrorType.BACKGROUND]
    scores = [example.score for example in found.examples]
    images = [example.image for example in found.examples]
    rows = np.flatnonzero(result.analysis.errors.type_of_pred == TYPES.index(ErrorType.BACKGROUND))
    assert len(found.examples) == 24
    assert scores == sorted((score for score in scores if score is not None), reverse=True)
    assert scores[0] == result.scores.scores[rows].max()
    assert max(images.count(image) for image in images) == 2
    assert all(result.data.pred.image[example.pred] == example.image for example in found.examples)


@pytest.mark.parametrize(("gt", "pred", "base"), [([], [], 1.0), ([], GT, 0.0), (GT, [], 0.0)], ids=["nothing", "no ground truth", "no prediction"])
def test_without_one_side_every_error_is_of_one_type(record: Any, gt: list[Any], pred: list[Any], base: float) -> None:
    errors = evaluate([record(gt, pred)]).analysis.errors
    counts = {kind: found.count for kind, found in errors.kinds.items() if found.count}
    assert (errors.base_f1, counts) == (base, ({ErrorType.BACKGROUND: 2} if pred else {}) | ({ErrorType.MISSED: 2} if gt else {}))
    assert all(errors.kinds[kind].delta_f1 == 1.0 for kind in counts)
