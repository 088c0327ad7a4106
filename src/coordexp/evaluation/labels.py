"""Which category an object belongs to. Two views: COCO categories (case-sensitive texts of the ground truth) and classes of equal normalized text (f1_det).

The label rule decides the first view only: a predicted text that is no category finds one by equal normalized text (exact) or as the nearest one (semantic).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from coordexp.evaluation.columns import Bools, EvaluationSet, Floats, Ints
from coordexp.evaluation.similarity import ExactSimilarity, LabelSimilarity, SemanticSimilarity
from coordexp.semantics.normalize import normalize_label
from coordexp.semantics.protocol import TextEncoder
from coordexp.types.progress import Progress


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


@dataclass(frozen=True, slots=True)
class UnknownDescs:
    """Distinct predicted texts that are no category, and what the semantic rule made of them.

    Example: `UnknownDescs(desc=[7, 9], count=[12, 1], category=[3, 3], similarity=[0.86, 0.35], is_mapped=[True, False])`.
    """

    desc: Ints
    """[U] position in `EvaluationSet.descs`."""
    count: Ints
    """[U] predictions with this text."""
    category: Ints
    """[U] id of the nearest category; 0: there is none."""
    similarity: Floats
    """[U] cosine to it; NaN where there is none."""
    is_mapped: Bools
    """[U] whether it reaches the threshold; the other texts are dropped."""


@dataclass(frozen=True, slots=True)
class LabelOutcome:
    """Everything that a label rule decided."""

    plan: LabelPlan
    similarity: LabelSimilarity
    """Whether two labels are near each other, by the same rule."""
    unknown: UnknownDescs | None = None
    """None with the exact rule."""


def apply_label_rule(data: EvaluationSet, *, encoder: TextEncoder | None, threshold: float, progress: Progress | None = None) -> LabelOutcome:
    """The exact rule without an encoder, else the semantic rule, which asks the encoder only where equal texts do not decide.

    Raises:
        BackendError: the encoder is needed and cannot be had.
    """
    plan = label_exactly(data)
    if encoder is None:
        return LabelOutcome(plan, ExactSimilarity())
    similarity = SemanticSimilarity(plan.classes, encoder=encoder, threshold=threshold, progress=progress)
    plan, unknown = map_unknown(data, plan, similarity)
    return LabelOutcome(plan, similarity, unknown)


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


def map_unknown(data: EvaluationSet, exact: LabelPlan, similarity: SemanticSimilarity) -> tuple[LabelPlan, UnknownDescs]:
    """Map or drop: a predicted text that is not literally a category gets the nearest one, or none when that is below the threshold."""
    is_category = np.zeros(len(data.descs), dtype=np.bool_)
    is_category[data.gt.desc] = True
    rows = np.flatnonzero(~is_category[data.pred.desc])
    descs, first, back, counts = np.unique(data.pred.desc[rows], return_index=True, return_inverse=True, return_counts=True)
    nearest = similarity.nearest(exact.pred_class[rows[first]], class_of_category(exact))
    category = nearest.best + 1
    pred_category = exact.pred_category.copy()
    pred_category[rows] = np.where(nearest.is_mapped, category, 0)[back]
    num_mapped = int(counts[nearest.is_mapped].sum())
    counters = {"unknown_dropped": len(rows) - num_mapped, "semantic_mapped": num_mapped, "semantic_unmapped": len(rows) - num_mapped}
    unknown = UnknownDescs(descs, counts, category, nearest.similarity, nearest.is_mapped)
    return replace(exact, pred_category=pred_category, counters=counters), unknown


def class_of_category(plan: LabelPlan) -> Ints:
    """[C] position in `classes` of each category."""
    classes = np.zeros(len(plan.categories), dtype=np.int64)
    classes[plan.gt_category - 1] = plan.gt_class
    return classes


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
