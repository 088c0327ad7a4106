"""Which category an object belongs to. Two views: COCO categories (case-sensitive texts of the ground truth) and classes of equal normalized text (f1_det)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import EvaluationSet, Ints
from coordexp.semantics.normalize import normalize_label


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """Labels as numbers.

    Example: ground truth "cat", "Cat" and a prediction "CAT" make `categories=("cat", "Cat")`, `classes=("cat",)`, `pred_category=[1]`.
    """

    categories: tuple[str, ...]
    """Stripped ground-truth descs in order of first sight; category ids count from 1."""
    gt_category: Ints
    """[G] category id."""
    pred_category: Ints
    """[P] category id; 0: no category, so COCO leaves the prediction out."""
    classes: tuple[str, ...]
    """One spelling for each distinct normalized text, those of the ground truth first."""
    gt_class: Ints
    """[G] position in `classes`."""
    pred_class: Ints
    """[P] position in `classes`; every prediction has one."""
    counters: Mapping[str, int]


def label_exactly(data: EvaluationSet) -> LabelPlan:
    """Equal texts share a category; failing that, equal normalized texts. Other predictions have none and are counted as `unknown_dropped`."""
    categories = _in_order_of_sight(data.gt.desc)
    category_of_desc = np.zeros(len(data.descs), dtype=np.int64)
    category_of_desc[categories] = np.arange(1, len(categories) + 1)
    spellings, class_of_desc = _classes(data, first=categories)
    category_of_class = np.zeros(len(spellings), dtype=np.int64)
    category_of_class[class_of_desc[categories[::-1]]] = category_of_desc[categories[::-1]]  # reversed: the first category of a class wins
    own = category_of_desc[data.pred.desc]
    pred_category = np.where(own > 0, own, category_of_class[class_of_desc[data.pred.desc]])
    return LabelPlan(
        categories=_texts(data, categories),
        gt_category=category_of_desc[data.gt.desc],
        pred_category=pred_category,
        classes=spellings,
        gt_class=class_of_desc[data.gt.desc],
        pred_class=class_of_desc[data.pred.desc],
        counters={"unknown_dropped": int((pred_category == 0).sum())},
    )


def _in_order_of_sight(codes: Ints) -> Ints:
    values, first = np.unique(codes, return_index=True)
    return values[np.argsort(first)].astype(np.int64)


def _classes(data: EvaluationSet, *, first: Ints) -> tuple[tuple[str, ...], Ints]:
    """Numbers the distinct normalized texts. Returns (spelling by class, class by desc)."""
    numbers: dict[str, int] = {}
    spellings: list[str] = []
    class_of_desc = np.full(len(data.descs), -1, dtype=np.int64)
    order: list[int] = [*first.tolist(), *_in_order_of_sight(data.pred.desc).tolist()]
    for desc in order:
        key = normalize_label(data.descs[desc])
        if key not in numbers:
            numbers[key] = len(spellings)
            spellings.append(data.descs[desc])
        class_of_desc[desc] = numbers[key]
    return tuple(spellings), class_of_desc


def _texts(data: EvaluationSet, descs: Ints) -> tuple[str, ...]:
    codes: list[int] = descs.tolist()
    return tuple(data.descs[code] for code in codes)
