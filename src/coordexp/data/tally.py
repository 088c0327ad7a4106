"""Sums of what the parts of a file held."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")


def add_counts(total: T, part: T) -> None:
    """Add every number and counter of a dataclass to those of another of its type, also in dataclasses inside; other fields stay as they are.

    Example: `add_counts(ImportSummary(num_images=2), ImportSummary(num_images=3))` leaves 5 in the first.
    """
    for item in fields(cast(Any, total)):
        theirs: Any = getattr(part, item.name)
        if not theirs:
            continue
        if isinstance(theirs, Counter):
            getattr(total, item.name).update(theirs)
        elif isinstance(theirs, int):
            setattr(total, item.name, getattr(total, item.name) + theirs)
        elif is_dataclass(theirs):
            add_counts(getattr(total, item.name), theirs)
