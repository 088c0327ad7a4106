"""What a metric is: key, meaning, reduction, and in which kind of run it appears. Keys are public names: they are added, never renamed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from coordexp.types.metrics import Reduction

EVAL_PREFIX = "eval_"


class RunKind(StrEnum):
    """Who logs a metric."""

    STAGE1 = "stage1"
    ROLLOUT_MATCHING = "rollout_matching_sft"
    STAGE2_AB = "stage2_ab_training"


class UnknownMetricError(KeyError):
    """A key that the registry does not hold: a mistake of the program. Register it with its meaning first."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """Example: `MetricSpec("token_acc", "share of … predicted first", Reduction.MEAN, frozenset({RunKind.STAGE1}), in_eval=True)`"""

    key: str
    meaning: str
    reduction: Reduction
    kinds: frozenset[RunKind]
    in_eval: bool = False
    """Logged by evaluation too, as `eval_<key>`."""
    in_train: bool = True
    needs: str = ""
    """The setting without which the key does not appear; empty: always there."""
    over: str = ""
    """What it is a mean over, when a run may have none of it: the key does not appear then. Example: `coordinate tokens`"""


class MetricRegistry:
    """All keys that a run may log. Lookup raises for a key that nobody described."""

    def __init__(self, specs: Iterable[MetricSpec]) -> None:
        self._specs: dict[str, MetricSpec] = {}
        for spec in specs:
            if spec.key in self._specs:
                raise ValueError(f"the metric '{spec.key}' is registered twice")
            self._specs[spec.key] = spec

    def __iter__(self) -> Iterator[MetricSpec]:
        return iter(self._specs.values())

    def __contains__(self, key: str) -> bool:
        return key in self._specs

    def get(self, key: str) -> MetricSpec:
        """The spec of a training key.

        Raises:
            UnknownMetricError: nobody registered it.
        """
        try:
            return self._specs[key]
        except KeyError:
            raise UnknownMetricError(f"the metric '{key}' is not registered: describe it in coordexp.metrics first") from None

    def check_logged(self, keys: Iterable[str]) -> None:
        """Raise `UnknownMetricError` unless each of `keys`, as written to a log, is registered; evaluation keys carry the prefix `eval_`."""
        for key in keys:
            if key in self._specs:
                continue
            bare = key.removeprefix(EVAL_PREFIX)
            if bare == key or not self.get(bare).in_eval:
                raise UnknownMetricError(f"the metric '{key}' is not registered: describe it in coordexp.metrics first")

    def keys_of(self, kind: RunKind, *, evaluation: bool = False, without: Collection[str] = ()) -> tuple[str, ...]:
        """The keys that a run of this kind logs, as written to the log; `without` names settings that are off, and what the run has none of."""
        specs = [spec for spec in self if kind in spec.kinds and (spec.in_eval if evaluation else spec.in_train)]
        specs = [spec for spec in specs if spec.needs not in without and spec.over not in without]
        return tuple(f"{EVAL_PREFIX if evaluation else ''}{spec.key}" for spec in specs)
