"""A metric value that knows how it folds over packs, optimizer steps and ranks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reduction(StrEnum):
    SUM = "sum"
    MEAN = "mean"
    """Weighted by `count`."""
    MAX = "max"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Metric:
    """Example: `Metric(total=6.0, count=3.0, reduction=Reduction.MEAN)` has the value 2.0."""

    total: float
    count: float
    reduction: Reduction

    @property
    def value(self) -> float | None:
        """None for a mean over nothing: such a key is not logged."""
        if self.reduction is Reduction.MEAN:
            return self.total / self.count if self.count > 0 else None
        return self.total
