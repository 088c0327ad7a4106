"""Which class is taken for which, with background: matches regardless of class, then compares labels. Sparse: only pairs that occur."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.evaluation.columns import Ints

CONFUSION_IOU = 0.50
BACKGROUND = -1
"""In place of a class: nothing there (row), nothing said (column)."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """A class taken for another one. Example: `Confusion(gt_class=4, pred_class=7, count=31, share=0.12)`: 12 % of class 4 are called class 7."""

    gt_class: int
    pred_class: int
    count: int
    share: float
    """Of the ground truths of `gt_class`."""


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """Entries by falling count. Classes are positions in `LabelPlan.classes`, or `BACKGROUND`.

    A row's sum is the number of ground truths of the class, a column's sum the number of predictions of it.
    """

    iou: float
    gt_class: Ints
    """[N] row; `BACKGROUND`: the prediction matches nothing."""
    pred_class: Ints
    """[N] column; `BACKGROUND`: the ground truth is matched by nothing."""
    count: Ints
    """[N] > 0"""
    top: tuple[Confusion, ...]
    """Class taken for another class, most frequent first."""
