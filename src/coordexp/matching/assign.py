"""Which prediction is which annotated object: candidates, a gate before the assignment, Hungarian with dummies. A function of its input alone.

Names do not matter here: what an object is called is judged afterwards, on matched pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs]

from coordexp.geometry.boxes import BoxArray, box_iou
from coordexp.matching.iou import DEFAULT_RESOLUTION, FloatMatrix, IouKind, bounding_boxes, object_iou
from coordexp.types.records import DetObject
from coordexp.types.rollouts import Match, Pair

_TIE = 1e-7
"""Less than twice this much of the total cost decides between assignments that are equal otherwise."""

_optimize = cast(Any, optimize)


def match_objects(
    predictions: Sequence[DetObject],
    objects: Sequence[DetObject],
    *,
    gate: float = 0.3,
    top_k: int = 5,
    fp_cost: float = 1.0,
    fn_cost: float = 1.0,
    iou: IouKind = "exact",
    resolution: int = DEFAULT_RESOLUTION,
) -> Match:
    """Match predictions and annotated objects, both in bins, one to one, at the least total cost.

    A pair costs 1 − IoU, a prediction without partner `fp_cost`, a ground truth without partner `fn_cost`. A pair that costs as much as leaving both alone
    is left. Between equally cheap assignments, earlier predictions and the order of the ground truth decide.

    Example: `match_objects([box], [box]).pairs` is `(Pair(pred=0, gt=0, iou=1.0),)`.

    Args:
        predictions: in order of appearance.
        objects: the ground truth.
        gate: pairs with a lower IoU are never matched.
        top_k: ground-truth objects that are looked at for each prediction: those whose boxes have the highest IoU, or the nearest centres where all are 0;
            more where several overlap it equally, so that equal annotations never hide each other.
        fp_cost: price of leaving a prediction unmatched.
        fn_cost: price of leaving a ground truth unmatched.
        iou: `exact` draws polygons only; `mask` draws everything.
        resolution: side of the canvas of mask IoU, in pixels.
    """
    if not predictions or not objects:
        return Match(pairs=(), missed=tuple(range(len(objects))), unmatched=tuple(range(len(predictions))), num_gated=0)
    overlap = object_iou(predictions, objects, iou=iou, resolution=resolution)
    is_candidate = find_candidates(bounding_boxes(predictions), bounding_boxes(objects), top_k=top_k)
    is_feasible = is_candidate & (overlap >= gate)
    preds, gts = _assign(1 - overlap, is_feasible, alone_cost=fp_cost + fn_cost)
    pairs = tuple(Pair(pred=pred, gt=gt, iou=float(overlap[pred, gt])) for pred, gt in zip(preds, gts, strict=True))
    taken_preds, taken_gts = set(preds), set(gts)
    return Match(
        pairs=pairs,
        missed=tuple(gt for gt in range(len(objects)) if gt not in taken_gts),
        unmatched=tuple(pred for pred in range(len(predictions)) if pred not in taken_preds),
        num_gated=int(is_candidate.sum() - is_feasible.sum()),
    )


def find_candidates(predictions: BoxArray, objects: BoxArray, *, top_k: int) -> npt.NDArray[np.bool_]:
    """[N, M]: for each predicted box the `top_k` boxes with the highest IoU and all that overlap it as much as the last of them; the nearest centres where all
    IoU are 0. Other ties go by position.
    """
    num_objects = len(objects)
    if top_k >= num_objects:
        return np.ones((len(predictions), num_objects), dtype=bool)
    score = box_iou(predictions, objects)
    is_alone = score.max(axis=1) == 0
    if is_alone.any():
        score[is_alone] = -_centre_distance(predictions[is_alone], objects)
    lowest_taken = -np.partition(-score, top_k - 1, axis=1)[:, top_k - 1, None]
    is_above, is_equal = score > lowest_taken, score == lowest_taken
    num_open = top_k - is_above.sum(axis=1, keepdims=True)
    return is_above | (is_equal & ((score > 0) | (is_equal.cumsum(axis=1) <= num_open)))


def _centre_distance(a: BoxArray, b: BoxArray) -> FloatMatrix:
    difference = ((a[:, :2] + a[:, 2:])[:, None] - (b[:, :2] + b[:, 2:])[None]) / 2
    return np.hypot(difference[..., 0], difference[..., 1])


def _assign(cost: FloatMatrix, is_feasible: npt.NDArray[np.bool_], *, alone_cost: float) -> tuple[list[int], list[int]]:
    """The pairs of the cheapest assignment with dummies.

    With a dummy for everyone, a pair saves `alone_cost - cost`, and a pair that saves nothing is as good as two dummies: the largest total saving on [N, M]
    is therefore the cheapest assignment on [N+M, N+M].
    """
    num_preds, num_gts = len(cost), len(cost[0])
    pred_places, gt_places = (np.arange(count, dtype=np.float64) / count for count in (num_preds, num_gts))
    ties = _TIE / num_preds * (pred_places[:, None] + np.abs(pred_places[:, None] - gt_places[None]) / (4 * num_preds))
    saving = np.where(is_feasible, np.maximum(alone_cost - cost - ties, 0), 0)
    rows, columns = _optimize.linear_sum_assignment(saving, maximize=True)
    is_pair = saving[rows, columns] > 0
    return rows[is_pair].tolist(), columns[is_pair].tolist()
