from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from coordexp.matching.assign import find_candidates, match_objects
from coordexp.matching.iou import bounding_boxes, object_iou
from coordexp.types.records import DetObject
from coordexp.types.rollouts import Match, Pair

RECORDED = json.loads(Path(__file__, "../../../fixtures/parity/stage2/matching.json").resolve().read_text())
SETTINGS = {"top_k": "top_k", "gate_threshold": "gate", "mask_resolution": "resolution", "fp_cost": "fp_cost", "fn_cost": "fn_cost"}
CROWD = st.lists(
    st.builds(
        lambda x, y, w, h: DetObject("", "bbox_2d", (x, y, x + w, y + h)), st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30)
    ),
    max_size=7,
)


def box(*points: float) -> DetObject:
    return DetObject("", "bbox_2d", points)


@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
@pytest.mark.parametrize("iou", ["mask", "exact"])
def test_the_recorded_matches_are_found(case, iou: str) -> None:
    settings = {SETTINGS[name]: value for name, value in case["kw"].items()}
    match = match_objects([box(*points) for points in case["preds"]], [box(*points) for points in case["gts"]], iou=iou, **settings)  # type: ignore[arg-type]
    recorded = case["result"]
    assert [[pair.pred, pair.gt] for pair in match.pairs] == recorded["matched_pairs"]
    assert [list(match.missed), list(match.unmatched), match.num_gated] == [
        recorded["fn_gt_indices"],
        recorded["fp_pred_indices"],
        recorded["gating_rejections"],
    ]
    assert match.iou_sum == (recorded["matched_maskiou_sum"] if iou == "mask" else pytest.approx(recorded["matched_maskiou_sum"], abs=0.03))


def test_the_total_is_best_even_where_the_best_pair_is_not_taken() -> None:
    predictions, objects = [box(0, 0, 10, 10), box(0, 0, 10, 20)], [box(0, 0, 10, 12), box(0, 0, 10, 6)]
    assert [(pair.pred, pair.gt) for pair in match_objects(predictions, objects).pairs] == [(0, 1), (1, 0)]


def test_the_gate_comes_before_the_assignment() -> None:
    predictions, objects = [box(0, 0, 10, 10), box(0, 0, 10, 30)], [box(0, 0, 10, 12), box(0, 0, 10, 6)]
    match = match_objects(predictions, objects, gate=0.7)
    assert (match.pairs, match.missed, match.unmatched) == ((Pair(pred=0, gt=0, iou=10 / 12),), (1,), (1,))
    assert match.num_gated == 3


def test_dummies_cheaper_than_a_pair_leave_both_alone() -> None:
    predictions, objects = [box(0, 0, 10, 10)], [box(0, 0, 10, 20)]
    costs = [{"fp_cost": 0.25, "fn_cost": 0.5}, {"fp_cost": 0.25, "fn_cost": 0.25}, {"fp_cost": 0.1, "fn_cost": 0.1}]
    assert [len(match_objects(predictions, objects, **cost).pairs) for cost in costs] == [1, 0, 0]


def test_of_equal_predictions_the_earliest_is_matched() -> None:
    same = [box(0, 0, 10, 10)] * 4
    assert match_objects(same, same[:1]) == Match(pairs=(Pair(0, 0, 1.0),), missed=(), unmatched=(1, 2, 3), num_gated=0)
    assert [(pair.pred, pair.gt) for pair in match_objects(same, same[:2]).pairs] == [(0, 0), (1, 1)]


def test_equal_annotations_do_not_hide_each_other_and_keep_their_order() -> None:
    same = [box(0, 0, 10, 10)] * 9
    assert match_objects(same, same, top_k=2).pairs == tuple(Pair(number, number, 1.0) for number in range(9))


@given(objects=CROWD)
def test_an_answer_that_equals_the_annotation_misses_nothing(objects: list[DetObject]) -> None:
    flat = [DetObject("", "bbox_2d", (3, 4, 3, 9)), DetObject("", "poly", (1, 1, 1, 1, 1, 1)), *objects]
    for iou in ("exact", "mask"):
        assert match_objects(flat, flat, top_k=1, gate=0.99, iou=iou).pairs == tuple(Pair(number, number, 1.0) for number in range(len(flat)))


def test_candidates_are_the_highest_iou_or_the_nearest_centres() -> None:
    objects = bounding_boxes([box(100, 0, 110, 10), box(0, 0, 10, 10), box(0, 0, 10, 9), box(300, 0, 310, 10)])
    touching, alone = find_candidates(bounding_boxes([box(0, 0, 10, 10), box(200, 0, 209, 10)]), objects, top_k=2).tolist()
    assert touching == [False, True, True, False]
    assert alone == [True, False, False, True]


def test_nothing_on_a_side_leaves_the_other_side_alone() -> None:
    assert match_objects([], [box(0, 0, 1, 1)]) == Match(pairs=(), missed=(0,), unmatched=(), num_gated=0)
    assert match_objects([box(0, 0, 1, 1)], []) == Match(pairs=(), missed=(), unmatched=(0,), num_gated=0)


def test_a_gate_of_zero_pairs_objects_far_apart() -> None:
    assert match_objects([box(0, 0, 1, 1)], [box(900, 900, 950, 950)], gate=0.0).pairs == (Pair(0, 0, 0.0),)


@given(predictions=CROWD, objects=CROWD, top_k=st.integers(1, 8), gate=st.sampled_from([0.0, 0.3, 0.6]), cost=st.sampled_from([0.2, 0.45, 1.0]))
def test_the_cost_equals_that_of_the_square_assignment_with_dummies(predictions, objects, top_k: int, gate: float, cost: float) -> None:
    match = match_objects(predictions, objects, top_k=top_k, gate=gate, fp_cost=cost, fn_cost=cost)
    assert sorted([*(pair.gt for pair in match.pairs), *match.missed]) == list(range(len(objects)))
    assert sorted([*(pair.pred for pair in match.pairs), *match.unmatched]) == list(range(len(predictions)))
    n, m = len(predictions), len(objects)
    square = np.full((n + m, n + m), 1e6)
    square[n:, m:] = 0.0
    square[np.arange(n), m + np.arange(n)] = cost
    square[n + np.arange(m), np.arange(m)] = cost
    if n and m:
        iou = object_iou(predictions, objects)
        is_allowed = find_candidates(bounding_boxes(predictions), bounding_boxes(objects), top_k=top_k) & (iou >= gate)
        square[:n, :m] = np.where(is_allowed, 1 - iou, 1e6)
        assert all(is_allowed[pair.pred, pair.gt] for pair in match.pairs)
    best = square[scipy.optimize.linear_sum_assignment(square)].sum()
    found = sum(1 - pair.iou for pair in match.pairs) + cost * (len(match.missed) + len(match.unmatched))
    assert found == pytest.approx(best, abs=1e-6)


@given(predictions=CROWD, objects=CROWD)
def test_the_same_input_gives_the_same_match(predictions: list[DetObject], objects: list[DetObject]) -> None:
    assert match_objects(predictions, objects) == match_objects(list(predictions), list(objects))
