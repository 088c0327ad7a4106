"""What goes wrong, ready for the page: error types with pictures of the worst, and the classes that are taken for one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.columns import Ints
from coordexp.evaluation.confusion import BACKGROUND
from coordexp.evaluation.error_types import ErrorExample, ErrorKind, ErrorType
from coordexp.evaluation.result import EvaluationResult
from coordexp.viz.crops import Crop

MAX_EXAMPLES = 6
"""Pictures of an error type."""

MAX_CONFUSED = 12
"""Classes with a row and a column of their own; the others share one."""

_MAX_PAIRS = 8
_MAX_NAMED = 4

EXPLAINED: dict[ErrorType, tuple[str, str]] = {
    ErrorType.LOCALIZATION: ("Box is off", "Right name, but the IoU with an object of that name is between 0.10 and 0.50."),
    ErrorType.CLASSIFICATION: ("Wrong name", "IoU of at least 0.50 with an object of another name."),
    ErrorType.DUPLICATE: ("Duplicate", "IoU of at least 0.50 with an object that a better prediction has taken."),
    ErrorType.BOTH: ("Box and name", "IoU between 0.10 and 0.50, only with objects of another name."),
    ErrorType.BACKGROUND: ("Nothing there", "IoU below 0.10 with every object."),
    ErrorType.MISSED: ("Missed", "An object without a match, and without a misplaced or misnamed prediction either."),
}
"""Title and meaning of each type."""


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One error type."""

    key: str
    title: str
    meaning: str
    kind: ErrorKind
    before: int | None
    """Count of the run that this one is compared with."""
    share: float
    """Of all errors."""
    classes: tuple[tuple[str, int], ...]
    """The most frequent ones with their counts."""
    crops: tuple[Crop, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One field of the confusion matrix."""

    count: int
    heat: int
    """Percent of its row."""
    is_right: bool
    note: str


@dataclass(frozen=True, slots=True)
class ConfusionView:
    """A part of the matrix that fits on a screen; its sums are those of the whole."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and fields, in the order of `columns`."""
    pairs: tuple[tuple[str, str, int, float], ...]
    """Name, what it is called, how often, share of its ground truths; most frequent first."""
    num_classes: int
    num_shown: int


def shown_examples(result: EvaluationResult) -> list[ErrorExample]:
    """Those that get a picture, in the order of the types."""
    return [example for kind in result.analysis.errors.kinds.values() for example in kind.examples[:MAX_EXAMPLES]]


def error_rows(result: EvaluationResult, before: EvaluationResult | None, crops: Mapping[ErrorExample, Crop]) -> tuple[ErrorRow, ...]:
    """All types, also those without an error. `crops` by example; an example without a picture is left out."""
    kinds = result.analysis.errors.kinds
    total = sum(kind.count for kind in kinds.values())
    old = before.analysis.errors.kinds if before is not None else None
    return tuple(
        ErrorRow(
            key=str(name),
            title=EXPLAINED[name][0],
            meaning=EXPLAINED[name][1],
            kind=kind,
            before=old[name].count if old is not None else None,
            share=kind.count / total if total else 0.0,
            classes=_most_frequent(kind.by_class, result.labels.classes),
            crops=tuple(crops[example] for example in kind.examples[:MAX_EXAMPLES] if example in crops),
        )
        for name, kind in kinds.items()
    )


def confusion_view(result: EvaluationResult) -> ConfusionView | None:
    """None without an object and without a prediction."""
    matrix, classes = result.analysis.confusion, result.labels.classes
    if not len(matrix.count):
        return None
    chosen = _most_confused(matrix.gt_class, matrix.pred_class, matrix.count, num_classes=len(classes))
    has_others = len(chosen) < len(classes)
    place = np.full(len(classes) + 1, len(chosen))  # the last one is BACKGROUND = -1
    place[chosen] = np.arange(len(chosen))
    place[BACKGROUND] = len(chosen) + has_others
    size = len(chosen) + has_others + 1
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (place[matrix.gt_class], place[matrix.pred_class]), matrix.count)
    names = [*(classes[number] or "(no name)" for number in chosen), *(["other classes"] if has_others else [])]
    rows = tuple((name, _cells(counts[row], row, [*names, "nothing"], name)) for row, name in enumerate([*names, "nothing there"]))
    pairs = tuple((classes[pair.gt_class], classes[pair.pred_class], pair.count, pair.share) for pair in matrix.top[:_MAX_PAIRS])
    return ConfusionView((*names, "missed"), rows, pairs, len(classes), len(chosen))


def _cells(counts: Ints, row: int, columns: Sequence[str], name: str) -> tuple[Cell, ...]:
    total = max(int(counts.sum()), 1)
    last = len(columns) - 1
    notes = (f"{name} → {column}: {count:,} ({count / total:.1%} of the row)" for column, count in zip(columns, counts.tolist(), strict=True))
    return tuple(
        Cell(count, round(100 * count / total), row == column != last, note) for column, (count, note) in enumerate(zip(counts.tolist(), notes, strict=True))
    )


def _most_confused(gt_class: Ints, pred_class: Ints, count: Ints, *, num_classes: int) -> list[int]:
    """Classes that are most often taken for another one, or another one for them; then the most frequent ones. In the order of the classes."""
    is_confused = (gt_class != BACKGROUND) & (pred_class != BACKGROUND) & (gt_class != pred_class)
    mass, size = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    np.add.at(mass, gt_class[is_confused], count[is_confused])
    np.add.at(mass, pred_class[is_confused], count[is_confused])
    np.add.at(size, gt_class[gt_class != BACKGROUND], count[gt_class != BACKGROUND])
    order = np.lexsort((-size, -mass))[:MAX_CONFUSED]
    return np.sort(order).tolist()


def _most_frequent(by_class: Ints, classes: Sequence[str]) -> tuple[tuple[str, int], ...]:
    order: list[int] = np.argsort(-by_class, kind="stable")[:_MAX_NAMED].tolist()
    return tuple((classes[number] or "(no name)", int(by_class[number])) for number in order if by_class[number])
