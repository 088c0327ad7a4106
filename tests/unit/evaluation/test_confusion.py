"""The confusion matrix with background, against a plain loop."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.confusion import BACKGROUND, ConfusionMatrix
from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.overlaps import box_iou_of_pairs
from coordexp.evaluation.result import EvaluationResult

Cells = dict[tuple[int, int], int]


def _cells(matrix: ConfusionMatrix) -> Cells:
    return {(row, column): count for row, column, count in zip(matrix.gt_class.tolist(), matrix.pred_class.tolist(), matrix.count.tolist(), strict=True)}


def _plain(result: EvaluationResult) -> Cells:
    """Greedy by IoU inside each image, labels decide only between equal IoU."""
    data, labels = result.data, result.labels
    pairs: list[tuple[float, bool, int, int]] = []
    for pred in range(len(data.pred)):
        for gt in np.flatnonzero(data.gt.image == data.pred.image[pred]).tolist():
            iou = float(box_iou_of_pairs(data.pred.boxes[[pred]], data.gt.boxes[[gt]])[0])
            if iou >= 0.5:
                pairs.append((-iou, bool(labels.pred_class[pred] != labels.gt_class[gt]), pred, gt))
    match_of_gt: dict[int, int] = {}
    for _, _, pred, gt in sorted(pairs):
        if gt not in match_of_gt and pred not in match_of_gt.values():
            match_of_gt[gt] = pred
    cells = Counter((int(label), int(labels.pred_class[match_of_gt[gt]]) if gt in match_of_gt else BACKGROUND) for gt, label in enumerate(labels.gt_class))
    cells.update((BACKGROUND, int(label)) for pred, label in enumerate(labels.pred_class) if pred not in match_of_gt.values())
    return dict(cells)


@pytest.mark.parametrize("seed", range(3))
def test_cells_equal_those_of_a_plain_loop(make_scenes: Any, seed: int) -> None:
    result = evaluate(make_scenes(25, seed=seed, crowd=4))
    assert _cells(result.analysis.confusion) == _plain(result)


def test_rows_sum_to_ground_truths_and_columns_to_predictions(make_scenes: Any) -> None:
    result = evaluate(make_scenes(40, seed=7, crowd=2))
    cells = _cells(result.analysis.confusion)
    for place, row in enumerate(result.per_class):
        assert sum(count for (gt, _), count in cells.items() if gt == place) == row.counts.num_gt
        assert sum(count for (_, pred), count in cells.items() if pred == place) == row.counts.num_pred
    assert (BACKGROUND, BACKGROUND) not in cells
    assert result.analysis.confusion.count.tolist() == sorted(cells.values(), reverse=True)


def test_top_lists_classes_that_are_taken_for_others(record: Any) -> None:
    boxes = [[20 * place, 0, 20 * place + 10, 10] for place in range(4)]
    gt = [{"bbox_2d": box, "desc": "cat"} for box in boxes]
    pred = [{"bbox_2d": box, "desc": name} for box, name in zip(boxes, ("dog", "dog", "cow", "cat"), strict=True)]
    result = evaluate([record(gt, pred)])
    top = [(result.labels.classes[found.pred_class], found.count, found.share) for found in result.analysis.confusion.top]
    assert top == [("dog", 2, 0.5), ("cow", 1, 0.25)]


@pytest.mark.parametrize("names", [("dog", "cat"), ("cat", "dog")], ids=["wrong name first", "right name first"])
def test_an_object_said_under_two_names_is_right_once_and_invented_once(record: Any, names: tuple[str, str]) -> None:
    gt = {"bbox_2d": [0, 0, 10, 10], "desc": "cat"}
    result = evaluate([record([gt], [{**gt, "desc": name} for name in names])])
    assert result.labels.classes == ("cat", "dog")
    assert _cells(result.analysis.confusion) == {(0, 0): 1, (BACKGROUND, 1): 1}


def test_without_objects_there_are_no_cells(record: Any) -> None:
    assert _cells(evaluate([record()]).analysis.confusion) == {}
    assert _cells(evaluate([]).analysis.confusion) == {}
