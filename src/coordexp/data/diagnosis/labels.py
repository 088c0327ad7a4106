"""Names that are two classes to the model and one to a person."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from coordexp.data.diagnosis.findings import Check, Finding, Place, Severity, first_places
from coordexp.data.diagnosis.survey import Survey

_INVISIBLE = frozenset("\u00ad\u200b\u2060\ufeff")


def check_labels(survey: Survey) -> list[Finding]:
    """Spaces that nobody sees, and spellings that differ by case or form alone."""
    return [*_check_spaces(survey), *_check_variants(survey)]


def tidy(label: str) -> str:
    """The name without leading, trailing, double and invisible characters."""
    visible = "".join(" " if char.isspace() or unicodedata.category(char) == "Cc" else char for char in label if char not in _INVISIBLE)
    return " ".join(visible.split())


def _check_spaces(survey: Survey) -> list[Finding]:
    bad = [number for number, label in enumerate(survey.labels) if tidy(label) != label]
    if not bad:
        return []
    rows = np.flatnonzero(np.isin(survey.boxes.label, bad))
    clean = set(survey.labels)
    num_double = sum(tidy(survey.labels[number]) in clean for number in bad)
    also = f"; {num_double} of these names also occur without them" if num_double else ""
    what = f"{len(rows)} of {len(survey.boxes)} objects have names with leading, trailing, double or invisible spaces ({len(bad)} names){also}"
    return [Finding(Check.LABEL_SPACES, Severity.WARNING, what, "strip the names, and join double spaces", _places(survey, rows.tolist()))]


def _check_variants(survey: Survey) -> list[Finding]:
    groups: dict[str, list[int]] = {}
    for number, label in enumerate(survey.labels):
        groups.setdefault(unicodedata.normalize("NFKC", tidy(label)).casefold().replace("_", " ").replace("-", " "), []).append(number)
    several = [group for group in groups.values() if len({tidy(survey.labels[number]) for number in group}) > 1]
    if not several:
        return []
    rows = [int(np.flatnonzero(survey.boxes.label == number)[0]) for group in several[:5] for number in group]
    example = ", ".join(repr(survey.labels[number]) for number in several[0])
    what = f"{len(several)} names are spelled in several ways: {example}"
    return [Finding(Check.LABEL_VARIANTS, Severity.NOTE, what, "use one spelling unless they mean different things", _places(survey, rows))]


def _places(survey: Survey, rows: Sequence[int]) -> tuple[Place, ...]:
    boxes = survey.boxes
    return first_places(Place(survey.line(row), int(boxes.index[row]), repr(survey.labels[int(boxes.label[row])])) for row in rows)
