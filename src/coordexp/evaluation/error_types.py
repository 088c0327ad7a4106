"""Why predictions are wrong and ground truths missed: the six error types of TIDE (Bolya et al. 2020), and what each costs.

The errors are those of f1_det at IoU 0.50, so they need no scores. Fixing a type means, as in TIDE: a localization or classification error becomes a match when
its ground truth is free (one of several errors about it; the others go), duplicates and the other false predictions go, missed ground truths are not asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from coordexp.evaluation.coco import ErrorCosts
from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints
from coordexp.evaluation.f1_det import DetResult
from coordexp.evaluation.labels import LabelPlan
from coordexp.evaluation.overlaps import Overlaps

FOREGROUND_IOU = 0.50
BACKGROUND_IOU = 0.10

_MAX_EXAMPLES = 24
_MAX_EXAMPLES_OF_IMAGE = 2


class ErrorType(StrEnum):
    """Order is that of a report. All but the last are predictions that f1_det does not match at IoU 0.50; the first that fits counts."""

    LOCALIZATION = "localization"
    """Right class, 0.10 <= best IoU < 0.50."""
    CLASSIFICATION = "classification"
    """IoU >= 0.50 with a ground truth of another class."""
    DUPLICATE = "duplicate"
    """IoU >= 0.50 with a ground truth of its class, which another prediction took."""
    BOTH = "both"
    """0.10 <= best IoU < 0.50 with another class only."""
    BACKGROUND = "background"
    """IoU < 0.10 with every ground truth."""
    MISSED = "missed"
    """A ground truth that is not matched, and for which no classification or localization error stands."""


_TYPES = tuple(ErrorType)
_CODE = {kind: code for code, kind in enumerate(_TYPES)}
_MATCHED = -1
_FIXABLE = (ErrorType.LOCALIZATION, ErrorType.CLASSIFICATION)
"""Fixing one of these makes a match."""
_TIDE_NAMES = {
    ErrorType.LOCALIZATION: "Loc",
    ErrorType.CLASSIFICATION: "Cls",
    ErrorType.DUPLICATE: "Dupe",
    ErrorType.BOTH: "Both",
    ErrorType.BACKGROUND: "Bkg",
    ErrorType.MISSED: "Miss",
}


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """One error, to be shown. `pred` and `gt` are rows of the tables of the `EvaluationSet`."""

    image: int
    """Place in `EvaluationSet.images`."""
    pred: int | None
    """None for a missed ground truth."""
    gt: int | None
    """The ground truth it is about; None for background."""
    iou: float | None
    """Of the two; None when one is missing."""
    score: float | None
    """None without real scores, and for a missed ground truth."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """All errors of one type."""

    count: int
    by_class: Ints
    """[C] by position in `LabelPlan.classes`: class of the prediction; of a missed one, class of the ground truth."""
    delta_f1: float
    """f1_det@0.50 gained when exactly these are fixed."""
    delta_ap: float | None
    """bbox AP50 gained; None without real scores or without the COCO part."""
    examples: tuple[ErrorExample, ...]
    """Worst first: highest score, or (without scores, and for missed ones) largest IoU or area; at most 2 of one image."""


@dataclass(frozen=True, slots=True)
class ErrorTypes:
    """Example: `errors.kinds[ErrorType.DUPLICATE].delta_f1`"""

    kinds: Mapping[ErrorType, ErrorKind]
    """All types, in the order of `ErrorType`."""
    base_f1: float
    """f1_det@0.50 as it is."""
    base_ap: float | None
    """AP50 that `delta_ap` adds to."""
    type_of_pred: Ints
    """[P] position in `tuple(ErrorType)`; -1: matched."""
    is_missed: Bools
    """[G] of type `MISSED`."""


@dataclass(frozen=True, slots=True)
class _Typed:
    """Every wrong prediction with the ground truth it is about."""

    type_of_pred: Ints
    """[P]"""
    gt_of_pred: Ints
    """[P] -1: none."""
    iou_of_pred: Floats
    """[P] IoU with that ground truth."""
    is_free: Bools
    """[G] not matched."""
    is_missed: Bools
    """[G]"""


def error_types(
    data: EvaluationSet, labels: LabelPlan, overlaps: Overlaps, det: DetResult, *, scores: Floats | None = None, costs: ErrorCosts | None = None
) -> ErrorTypes:
    """Sort the errors of `det` into types. `overlaps` must reach down to `BACKGROUND_IOU`; `scores` [P] when they are real."""
    typed = _type_errors(data, labels, overlaps, det)
    base_f1 = det.total.f1(FOREGROUND_IOU)
    kinds = {
        kind: ErrorKind(
            count=len(rows),
            by_class=np.bincount((labels.gt_class if kind is ErrorType.MISSED else labels.pred_class)[rows], minlength=len(labels.classes)).astype(np.int64),
            delta_f1=_fixed_f1(typed, kind, rows, det) - base_f1,
            delta_ap=None if costs is None else costs.delta_ap[_TIDE_NAMES[kind]],
            examples=_examples(data, typed, kind, rows, scores),
        )
        for kind, rows in _rows_of_types(typed).items()
    }
    return ErrorTypes(kinds, base_f1, None if costs is None else costs.base_ap, typed.type_of_pred, typed.is_missed)


def _type_errors(data: EvaluationSet, labels: LabelPlan, overlaps: Overlaps, det: DetResult) -> _Typed:
    is_wrong, is_free = np.ones(len(data.pred), np.bool_), np.ones(len(data.gt), np.bool_)
    is_wrong[det.matches.pred] = is_free[det.matches.gt] = False
    pairs = overlaps.where(is_wrong[overlaps.pred] & (overlaps.iou >= BACKGROUND_IOU))
    is_same = labels.pred_class[pairs.pred] == labels.gt_class[pairs.gt]
    same_gt, same_iou = _best(pairs.where(is_same), num_pred=len(data.pred))
    other_gt, other_iou = _best(pairs.where(~is_same), num_pred=len(data.pred))
    rules = {
        ErrorType.LOCALIZATION: (same_iou >= BACKGROUND_IOU) & (same_iou < FOREGROUND_IOU),
        ErrorType.CLASSIFICATION: other_iou >= FOREGROUND_IOU,
        ErrorType.DUPLICATE: same_iou >= FOREGROUND_IOU,
        ErrorType.BOTH: other_iou >= BACKGROUND_IOU,
        ErrorType.BACKGROUND: is_wrong,
    }
    type_of_pred = np.select([is_wrong & rule for rule in rules.values()], [_CODE[kind] for kind in rules], default=_MATCHED)
    is_about_same = np.isin(type_of_pred, (_CODE[ErrorType.LOCALIZATION], _CODE[ErrorType.DUPLICATE]))
    gt_of_pred = np.where(is_about_same, same_gt, other_gt)
    iou_of_pred = np.where(is_about_same, same_iou, other_iou)
    has_gt = (type_of_pred != _MATCHED) & (type_of_pred != _CODE[ErrorType.BACKGROUND])
    gt_of_pred = np.where(has_gt, gt_of_pred, -1)
    is_missed = is_free.copy()
    is_missed[gt_of_pred[np.isin(type_of_pred, [_CODE[kind] for kind in _FIXABLE])]] = False
    return _Typed(type_of_pred, gt_of_pred, iou_of_pred, is_free, is_missed)


def _best(pairs: Overlaps, *, num_pred: int) -> tuple[Ints, Floats]:
    """(ground truth [P] or -1, IoU [P] or 0) of the highest IoU of each prediction; `pairs` stand by falling IoU inside an image."""
    gt, iou = np.full(num_pred, -1, dtype=np.int64), np.zeros(num_pred)
    preds, first = np.unique(pairs.pred, return_index=True)
    gt[preds], iou[preds] = pairs.gt[first], pairs.iou[first]
    return gt, iou


def _rows_of_types(typed: _Typed) -> dict[ErrorType, Ints]:
    """Rows of the prediction table; of missed ones, rows of the ground-truth table."""
    rows = {kind: np.flatnonzero(typed.type_of_pred == code) for kind, code in _CODE.items() if kind is not ErrorType.MISSED}
    return rows | {ErrorType.MISSED: np.flatnonzero(typed.is_missed)}


def _fixed_f1(typed: _Typed, kind: ErrorType, rows: Ints, det: DetResult) -> float:
    """f1_det@0.50 after the fix: 2 tp / (predictions + ground truths) with what is left of them."""
    gained = 0
    if kind in _FIXABLE:
        about = np.unique(typed.gt_of_pred[rows])
        gained = int(typed.is_free[about].sum())
    left = det.total.num_pred + det.total.num_gt - (len(rows) - gained)
    tp = det.total.at(FOREGROUND_IOU)[0] + gained
    return 2 * tp / left if left else 1.0


def _examples(data: EvaluationSet, typed: _Typed, kind: ErrorType, rows: Ints, scores: Floats | None) -> tuple[ErrorExample, ...]:
    is_missed = kind is ErrorType.MISSED
    table = data.gt if is_missed else data.pred
    if scores is not None and not is_missed:
        badness = scores[rows]
    else:
        badness = table.areas[rows] if kind in (ErrorType.MISSED, ErrorType.BACKGROUND) else typed.iou_of_pred[rows]
    chosen = _first_of_images(rows[np.argsort(-badness, kind="stable")], table.image)
    if is_missed:
        return tuple(ErrorExample(int(table.image[row]), None, row, None, None) for row in chosen)
    has_gt = kind is not ErrorType.BACKGROUND
    return tuple(
        ErrorExample(
            image=int(table.image[row]),
            pred=row,
            gt=int(typed.gt_of_pred[row]) if has_gt else None,
            iou=float(typed.iou_of_pred[row]) if has_gt else None,
            score=None if scores is None else float(scores[row]),
        )
        for row in chosen
    )


def _first_of_images(rows: Ints, image: Ints) -> list[int]:
    """The first rows, at most `_MAX_EXAMPLES_OF_IMAGE` of one image, so that one bad image does not fill the list."""
    by_image = np.argsort(image[rows], kind="stable")
    sorted_images = image[rows][by_image]
    place_in_image = np.empty(len(rows), dtype=np.int64)
    place_in_image[by_image] = np.arange(len(rows)) - np.searchsorted(sorted_images, sorted_images)
    return rows[place_in_image < _MAX_EXAMPLES_OF_IMAGE][:_MAX_EXAMPLES].tolist()
