"""NMS-AP, and the search for predictions that overlap one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.columns import Floats, ObjectTable
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.overlaps import box_iou_of_pairs
from coordexp.evaluation.pred_overlaps import find_pred_overlaps

Record = dict[str, Any]


def _table(image: Any, boxes: Floats) -> ObjectTable:
    rows = np.arange(len(boxes))
    return ObjectTable(image=np.asarray(image, dtype=np.int64), index=rows, desc=np.zeros(len(boxes), np.int64), boxes=boxes, scores=np.ones(len(boxes)))


def _random_boxes(rng: np.random.Generator, count: int, *, low: float) -> Floats:
    corners = rng.uniform(low, low + 60, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 50, (count, 2))], axis=1)


@pytest.mark.parametrize("above", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("low", [0.0, -40.0], ids=["inside the image", "beyond its left edge"])
def test_overlapping_predictions_are_all_pairs_of_an_image_above_the_bound(above: float, low: float) -> None:
    rng = np.random.default_rng(0)
    table = _table(np.sort(rng.integers(0, 4, 200)), _random_boxes(rng, 200, low=low))
    found = find_pred_overlaps(table, above=above)
    first, second = np.triu_indices(200, k=1)
    iou = box_iou_of_pairs(table.boxes[first], table.boxes[second])
    expected = (iou > above) & (table.image[first] == table.image[second])
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == set(zip(first[expected].tolist(), second[expected].tolist(), strict=True))
    assert np.sort(found.iou) == pytest.approx(np.sort(iou[expected]))


def test_more_pairs_than_are_held_at_once_are_all_found() -> None:
    boxes = np.tile([[0.0, 0.0, 10.0, 10.0]], (1600, 1))
    found = find_pred_overlaps(_table(np.zeros(1600), boxes), above=0.5)
    assert np.array_equal(np.sort(found.first * 1600 + found.second), np.ravel_multi_index(np.triu_indices(1600, k=1), (1600, 1600)))


def _survivors(items: list[Record]) -> list[Record]:
    """Plain non-maximum suppression of one image."""
    kept: list[Record] = []
    for item in sorted(items, key=lambda item: -item["score"]):
        box = np.array([item["points"]], dtype=np.float64)
        if all(box_iou_of_pairs(box, np.array([other["points"]], dtype=np.float64))[0] <= 0.5 for other in kept):
            kept.append(item)
    return kept


@pytest.mark.parametrize("iou_thrs", [None, (0.3, 0.5)], ids=["usual thresholds", "two thresholds"])
def test_nms_ap_is_the_ap_of_what_plain_suppression_leaves(make_scenes: Any, iou_thrs: tuple[float, ...] | None) -> None:
    records, settings = make_scenes(30, seed=1, crowd=6), EvalSettings(iou_thrs=iou_thrs)
    for record in records:
        record["pred"] += [{**item, "desc": "zero", "score": item["score"] * 0.7} for item in record["pred"][::2]]
    result, left = evaluate(records, settings=settings), evaluate([{**record, "pred": _survivors(record["pred"])} for record in records], settings=settings)
    assert result.analysis.nms is not None
    assert result.analysis.nms.num_removed == len(result.data.pred) - len(left.data.pred) > 50
    keys = ("bbox_AP", "bbox_AP50")
    assert [result.metrics[f"nms_{key}"] for key in keys] == pytest.approx([left.metrics[key] for key in keys], abs=1e-12)
    assert result.metrics["nms_bbox_AP50"] < result.metrics["bbox_AP50"]


def test_an_object_said_under_several_names_loses_where_the_wrong_one_scores_higher(record: Any) -> None:
    gt = [{"bbox_2d": [20 * place, 0, 20 * place + 15, 15], "desc": name} for place, name in enumerate(("cat", "dog"))]
    pred = [{**item, "desc": name, "score": score} for item in gt for name, score in (("cat", 0.9 - item["bbox_2d"][0] / 1000), ("dog", 0.8))]
    pred[3]["score"] = 0.7
    metrics = evaluate([record(gt, pred)]).metrics
    assert metrics["bbox_AP50"] == pytest.approx((1.0 + 0.5) / 2)
    assert metrics["nms_bbox_AP50"] == pytest.approx((1.0 + 0.0) / 2)


def test_a_prediction_that_no_category_has_removes_nothing(record: Any) -> None:
    gt = {"bbox_2d": [0, 0, 15, 15], "desc": "cat"}
    result = evaluate([record([gt], [{**gt, "score": 0.5}, {**gt, "desc": "cow", "score": 0.9}])])
    assert (result.analysis.nms.num_removed, result.metrics["nms_bbox_AP"]) == (0, pytest.approx(1.0))


def test_without_ground_truth_it_is_undefined(record: Any) -> None:
    result = evaluate([record([], [{"bbox_2d": [0, 0, 15, 15], "desc": "cat", "score": score} for score in (0.5, 0.6)])])
    assert (result.metrics["nms_bbox_AP"], result.metrics["nms_bbox_AP50"]) == (-1.0, -1.0)
