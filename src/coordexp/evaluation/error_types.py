"""Why predictions are wrong and ground truths missed: the six error types of TIDE (Bolya et al. 2020), and what each costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordexp.evaluation.columns import Bools, Ints

FOREGROUND_IOU = 0.50
BACKGROUND_IOU = 0.10


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
