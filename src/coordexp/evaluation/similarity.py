"""When a predicted label counts as near a ground-truth label. Exact: equal normalized texts. Embedding rules implement the same protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coordexp.evaluation.columns import Bools, Floats, Ints


class LabelSimilarity(Protocol):
    """Compares classes by their position in `LabelPlan.classes`."""

    @property
    def threshold(self) -> float | None:
        """Similarity that counts as near; None when only equality does."""
        ...

    def compare(self, pred_class: Ints, gt_class: Ints) -> tuple[Floats, Bools]:
        """(similarity [K] or NaN where unknown, is near [K]) of the pairs (pred_class[i], gt_class[i])."""
        ...


@dataclass(frozen=True, slots=True)
class ExactSimilarity:
    """Equal normalized texts are near (similarity 1); of others nothing is known."""

    threshold: float | None = None

    def compare(self, pred_class: Ints, gt_class: Ints) -> tuple[Floats, Bools]:
        is_equal = pred_class == gt_class
        return np.where(is_equal, 1.0, np.nan), is_equal
