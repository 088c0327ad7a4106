"""A metric value that knows how it folds over packs, optimizer steps and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Reduction(StrEnum):
    SUM = "sum"
    MEAN = "mean"
    """Weighted by `count`."""
    MAX = "max"
    LAST = "last"
    P90 = "p90"
    """The value that 90 % of all observations do not exceed; every observation travels, so that packs, steps and ranks give what one list would."""
    P99 = "p99"


_SHARES = {Reduction.P90: 0.9, Reduction.P99: 0.99}


@dataclass(frozen=True, slots=True)
class Metric:
    """Example: `Metric(total=6.0, count=3.0, reduction=Reduction.MEAN)` has the value 2.0."""

    total: float
    count: float
    reduction: Reduction
    observations: tuple[float, ...] = ()
    """Of a percentile only."""

    @property
    def value(self) -> float | None:
        """None for a mean or a percentile of nothing: such a key is not logged."""
        if self.reduction is Reduction.MEAN:
            return self.total / self.count if self.count > 0 else None
        if self.reduction in _SHARES:
            return percentile(self.observations, _SHARES[self.reduction]) if self.observations else None
        return self.total

    @classmethod
    def of(cls, values: Sequence[float], reduction: Reduction) -> Metric:
        """One metric from its single observations, in order of time."""
        if reduction in _SHARES:
            return cls(total=0.0, count=len(values), reduction=reduction, observations=tuple(values))
        if reduction is Reduction.MAX:
            return cls(total=max(values), count=len(values), reduction=reduction)
        if reduction is Reduction.LAST:
            return cls(total=values[-1], count=len(values), reduction=reduction)
        return cls(total=float(sum(values)), count=len(values), reduction=reduction)


def percentile(values: Sequence[float], share: float) -> float:
    """Linear interpolation between the sorted values, as numpy does. Example: `percentile([1, 2, 3], 0.9) == 2.8`"""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
