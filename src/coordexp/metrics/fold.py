"""Folds metrics over packs, optimizer steps and ranks, each by its own reduction and weighted by its own count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import MetricRegistry
from coordexp.types.metrics import Metric, Reduction


def merge(first: Metric, second: Metric) -> Metric:
    """Both together; `second` is the later one.

    Raises:
        ValueError: they reduce differently.
    """
    if first.reduction is not second.reduction:
        raise ValueError(f"metrics with the reductions {first.reduction} and {second.reduction} cannot be merged")
    if first.reduction is Reduction.LAST:
        return second
    observations = first.observations + second.observations
    if first.reduction is Reduction.MAX:
        return Metric(total=max(first.total, second.total), count=first.count + second.count, reduction=Reduction.MAX)
    return Metric(total=first.total + second.total, count=first.count + second.count, reduction=first.reduction, observations=observations)


class MetricFold:
    """Collects metrics between two log events.

    Example:
        fold = MetricFold()
        fold.add("token_acc", total=90, count=100)
        fold.add("token_acc", total=0, count=100)
        fold.take() == {"token_acc": 0.45}
    """

    def __init__(self, registry: MetricRegistry = REGISTRY) -> None:
        self._registry = registry
        self._metrics: dict[str, Metric] = {}

    def add(self, key: str, total: float, count: float = 1.0) -> None:
        """Add one observation; the registry says how it folds.

        Raises:
            UnknownMetricError: the key is not registered.
        """
        self._put(key, Metric(total=total, count=count, reduction=self._registry.get(key).reduction))

    def add_values(self, key: str, values: Sequence[float]) -> None:
        """Add single observations, for instance the lengths of the rollouts of a batch; nothing is added for none.

        Raises:
            UnknownMetricError: the key is not registered.
        """
        reduction = self._registry.get(key).reduction
        if values:
            self._put(key, Metric.of(values, reduction))

    def update(self, metrics: Mapping[str, Metric]) -> None:
        """Add what another rank or pack has folded.

        Raises:
            UnknownMetricError: a key is not registered.
        """
        for key, metric in metrics.items():
            self._registry.get(key)
            self._put(key, metric)

    def _put(self, key: str, metric: Metric) -> None:
        known = self._metrics.get(key)
        self._metrics[key] = metric if known is None else merge(known, metric)

    def snapshot(self) -> dict[str, Metric]:
        """What was folded so far, unreduced: this is what ranks exchange."""
        return dict(self._metrics)

    def values(self) -> dict[str, float]:
        """Reduced; a mean over nothing is left out."""
        reduced = {key: metric.value for key, metric in self._metrics.items()}
        return {key: value for key, value in reduced.items() if value is not None}

    def take(self) -> dict[str, float]:
        """`values()`, and start over."""
        values = self.values()
        self._metrics.clear()
        return values
