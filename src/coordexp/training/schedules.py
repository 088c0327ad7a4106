"""Which samples an optimizer step sees: functions of (seed, step), the same on every rank, so that a resumed run goes on with what would have come.

A step is a list of groups. A group is what must share a forward: a row of packed samples, or a single sample.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from coordexp.batching.packing import Indices, RowPlan, pack_stream, plan_rows

_KEPT_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Group:
    """Samples that share a forward, and the epoch that they are encoded for."""

    samples: tuple[int, ...]
    epoch: int


class Schedule(Protocol):
    """What the step loader reads."""

    @property
    def groups_per_step(self) -> int:
        """Of a full step, over all ranks."""
        ...

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch_of(self, step: int) -> int: ...

    def groups(self, step: int) -> tuple[Group, ...]:
        """The groups of 0-based optimizer step `step`, for all ranks together: rank r of w takes every w-th, from r."""
        ...

    def describe(self, epoch: int) -> str | None:
        """What is worth saying when `epoch` starts."""
        ...


@dataclass(frozen=True, slots=True)
class StepSchedule:
    """Each epoch visits every sample once, in an order that depends on seed and epoch alone.

    Example: `StepSchedule(num_samples=100, samples_per_step=16, seed=1).steps_per_epoch == 7` (the last step has 4 samples; 6 with `drop_last`)
    """

    num_samples: int
    samples_per_step: int
    """Over all ranks."""
    seed: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.num_samples < 1 or self.samples_per_step < 1:
            raise ValueError(f"nothing to train on: {self.num_samples} samples, {self.samples_per_step} a step")

    @property
    def groups_per_step(self) -> int:
        return self.samples_per_step

    @property
    def steps_per_epoch(self) -> int:
        return _count_steps(self.num_samples, self.samples_per_step, drop_last=self.drop_last)

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """Sample indices of a step, for all ranks together."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = shuffled(self.num_samples, seed=self.seed, epoch=epoch)
        return order[position * self.samples_per_step : (position + 1) * self.samples_per_step]

    def groups(self, step: int) -> tuple[Group, ...]:
        epoch = self.epoch_of(step)
        return tuple(Group((index,), epoch) for index in self.indices(step).tolist())

    def describe(self, epoch: int) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How samples become rows; `plan_rows` and `pack_stream` tell what each means."""

    capacity: int
    buffer: int | None = None
    min_fill: float = 0.0
    drop_last: bool = False


class PackedSchedule:
    """Each epoch is planned into rows anew, and a step takes the next `rows_per_step` of them.

    All epochs have the number of steps of the first one: a later one is cut when it makes more rows than these steps take, and filled by repeating its first
    rows when its last step would stay empty; `describe` counts both. May be called from several threads.
    """

    def __init__(self, lengths_of: Callable[[int], Indices], *, rows_per_step: int, seed: int, rows: RowSettings, drop_last_step: bool = False) -> None:
        """Args beside the obvious.

        lengths_of: tokens of each sample in an epoch, none longer than a row.
        rows_per_step: over all ranks.
        drop_last_step: an epoch ends with its last full step.
        """
        self._lengths_of = lengths_of
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._rows = rows
        self._drop_last_step = drop_last_step
        self._plans: OrderedDict[int, RowPlan] = OrderedDict()
        self._lock = threading.Lock()
        self.first_plan = self.plan(0)

    @property
    def groups_per_step(self) -> int:
        return self._rows_per_step

    @property
    def steps_per_epoch(self) -> int:
        return _count_steps(len(self.first_plan), self._rows_per_step, drop_last=self._drop_last_step)

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def plan(self, epoch: int) -> RowPlan:
        """The rows of an epoch, before it is cut or filled to its steps."""
        with self._lock:
            if epoch not in self._plans:
                settings = self._rows
                self._plans[epoch] = plan_rows(
                    self._lengths_of(epoch),
                    capacity=settings.capacity,
                    seed=(self._seed, epoch),
                    buffer=settings.buffer,
                    min_fill=settings.min_fill,
                    drop_last=settings.drop_last,
                )
                while len(self._plans) > _KEPT_EPOCHS:
                    self._plans.popitem(last=False)
            return self._plans[epoch]

    def groups(self, step: int) -> tuple[Group, ...]:
        epoch, position = divmod(step, self.steps_per_epoch)
        plan = self.plan(epoch)
        numbers = range(position * self._rows_per_step, min((position + 1) * self._rows_per_step, len(plan) + self._num_repeated(plan)))
        return tuple(Group(tuple(plan.row(number % len(plan)).tolist()), epoch) for number in numbers)

    def describe(self, epoch: int) -> str | None:
        """Example: `epoch 3: 412 rows of 4096 tokens, 98.7 % filled (lower bound 407); 4 of them with 31 samples do not fit into 51 steps and are left out`"""
        plan = self.plan(epoch)
        if epoch == 0 and len(plan) <= self._most_rows:
            # the same was said when the run started
            return None
        text = f"epoch {epoch + 1}: {describe_rows(plan)}"
        if repeated := self._num_repeated(plan):
            text += f"; {repeated} repeated to fill {self.steps_per_epoch} steps"
        if cut := max(0, len(plan) - self._most_rows):
            samples = int(plan.starts[-1] - plan.starts[self._most_rows])
            verbs = ("does", "is") if cut == 1 else ("do", "are")
            number = f"{samples} sample{'' if samples == 1 else 's'}"
            text += f"; {cut} of them with {number} {verbs[0]} not fit into {self.steps_per_epoch} steps and {verbs[1]} left out"
        return text

    @property
    def _most_rows(self) -> int:
        return self.steps_per_epoch * self._rows_per_step

    def _num_repeated(self, plan: RowPlan) -> int:
        """Rows that are used twice so that every step has as many as it had in the first epoch."""
        # a last step with fewer rows than before is as good as any last step; an empty one is not, nor are other steps than full ones with `drop_last_step`
        fewest = self._most_rows if self._drop_last_step else self._most_rows - self._rows_per_step + 1
        return max(0, min(len(self.first_plan), self._most_rows) - len(plan)) if len(plan) < fewest else 0


class StreamSchedule:
    """Rows from an endless stream through a bounded buffer. How many rows a pass over the data makes is known only afterwards: the whole training is one epoch.

    Reads forward only: an earlier step than the last one starts the stream again. May be called from several threads.
    """

    def __init__(self, read_pass: Callable[[int], Iterator[tuple[int, int]]], *, num_steps: int, rows_per_step: int, seed: int, rows: RowSettings) -> None:
        """Args beside the obvious.

        read_pass: pairs (sample, tokens) of the n-th pass over the data, in the order in which they come; the same at each call.
        num_steps: of the whole training.
        rows: `buffer` must be given.
        """
        if rows.buffer is None:
            raise ValueError("a stream needs a buffer")
        self.buffer = rows.buffer
        self._read_pass = read_pass
        self._num_steps = num_steps
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._rows = rows
        self._lock = threading.Lock()
        self._stream = self._read()
        self._recent: deque[tuple[int, tuple[Group, ...]]] = deque(maxlen=8)
        self._next_step = 0

    @property
    def groups_per_step(self) -> int:
        return self._rows_per_step

    @property
    def steps_per_epoch(self) -> int:
        return self._num_steps

    def epoch_of(self, step: int) -> int:
        return step // self._num_steps

    def groups(self, step: int) -> tuple[Group, ...]:
        with self._lock:
            for known, groups in self._recent:
                if known == step:
                    return groups
            if step < self._next_step:
                self._stream, self._next_step = self._read(), 0
                self._recent.clear()
            while self._next_step <= step:
                self._recent.append((self._next_step, tuple(next(self._stream) for _ in range(self._rows_per_step))))
                self._next_step += 1
            return self._recent[-1][1]

    def describe(self, epoch: int) -> str | None:
        return None

    def _read(self) -> Iterator[Group]:
        settings, number = self._rows, 0
        while True:
            rows = pack_stream(
                self._read_pass(number),
                capacity=settings.capacity,
                buffer=self.buffer,
                seed=(self._seed, number),
                min_fill=settings.min_fill,
                drop_last=settings.drop_last,
            )
            is_empty = True
            for row in rows:
                is_empty = False
                yield Group(tuple(row), number)
            if is_empty:
                raise ValueError("the stream holds no samples")
            number += 1


class MappedSchedule:
    """A schedule over places of an epoch, read as one over samples: `order(epoch)` says which sample stands at each place."""

    def __init__(self, schedule: Schedule, order: Callable[[int], Indices]) -> None:
        self.schedule = schedule
        self._order = order

    @property
    def groups_per_step(self) -> int:
        return self.schedule.groups_per_step

    @property
    def steps_per_epoch(self) -> int:
        return self.schedule.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        return self.schedule.epoch_of(step)

    def groups(self, step: int) -> tuple[Group, ...]:
        groups = self.schedule.groups(step)
        orders = {epoch: self._order(epoch) for epoch in {group.epoch for group in groups}}
        return tuple(Group(tuple(orders[group.epoch][list(group.samples)].tolist()), group.epoch) for group in groups)

    def describe(self, epoch: int) -> str | None:
        return self.schedule.describe(epoch)


def describe_rows(plan: RowPlan) -> str:
    """Example: `412 rows of 4096 tokens, 98.7 % filled (lower bound 407)`"""
    left_out = f", {plan.left_out} sample{'' if plan.left_out == 1 else 's'} left out" if plan.left_out else ""
    return f"{len(plan)} rows of {plan.capacity} tokens, {100 * plan.fill:.1f} % filled (lower bound {plan.lower_bound}){left_out}"


def row_facts(plan: RowPlan) -> dict[str, Any]:
    """The same for `run_metadata.json`."""
    return {
        "capacity": plan.capacity,
        "rows": len(plan),
        "rows_lower_bound": plan.lower_bound,
        "fill": round(plan.fill, 6),
        "samples": len(plan.samples),
        "samples_left_out": plan.left_out,
        "tokens": int(plan.tokens.sum()),
    }


@lru_cache(maxsize=4)
def shuffled(num_samples: int, *, seed: int, epoch: int) -> Indices:
    """The samples in the order of an epoch; not to be written to."""
    order = np.random.default_rng((seed, epoch)).permutation(num_samples)
    order.flags.writeable = False
    return order


def _count_steps(num_groups: int, per_step: int, *, drop_last: bool) -> int:
    full, rest = divmod(num_groups, per_step)
    # a set smaller than one step is one step
    return max(1, full if drop_last or not rest else full + 1)
