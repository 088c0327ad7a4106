"""What each optimizer step trains on: a function of (seed, step, rank), so that a resumed run sees exactly what the straight run would have seen.

The next steps are prepared by threads while the current one trains. Timing decides only when something is ready, never what it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coordexp.batching.collate import PackBatch, PaddedCollator, collate_packs
from coordexp.batching.plan import plan_padded
from coordexp.types.sequences import Segment

_PREFETCH_STEPS = 2


class Source(Protocol):
    """Where segments come from."""

    def __len__(self) -> int: ...

    def encode(self, index: int, *, epoch: int) -> Segment: ...


@dataclass(frozen=True, slots=True)
class StepSchedule:
    """Which samples an optimizer step sees. Each epoch visits every sample once, in an order that depends on seed and epoch alone.

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
    def steps_per_epoch(self) -> int:
        full, rest = divmod(self.num_samples, self.samples_per_step)
        # a set smaller than one step is one step
        return max(1, full if self.drop_last or not rest else full + 1)

    def epoch_of(self, step: int) -> int:
        return step // self.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """Sample indices of 0-based optimizer step `step`, for all ranks together: rank r of w takes every w-th, from r."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        return order[position * self.samples_per_step : (position + 1) * self.samples_per_step]


class StepLoader:
    """Iterates over the rest of the current epoch, one tuple of packs for each optimizer step; `len` is the steps of an epoch.

    One reader: the trainer pulls once per optimizer step, after the previous update. `current_step` says which step comes next; it is read when an
    epoch starts.
    """

    def __init__(
        self,
        source: Source,
        *,
        schedule: StepSchedule,
        collator: PaddedCollator,
        per_pack: int,
        current_step: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 1,
    ) -> None:
        self.dataset = source
        self.schedule = schedule
        self._collator = collator
        self._per_pack = per_pack
        self._current_step = current_step
        self._rank, self._world_size = rank, world_size
        self._encoders = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="encode") if num_threads > 1 else None
        self._planner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plan")

    def __len__(self) -> int:
        return self.schedule.steps_per_epoch

    @property
    def packs_per_step(self) -> int:
        """Forwards of a full step on each rank."""
        per_rank = math.ceil(self.schedule.samples_per_step / self._world_size)
        return math.ceil(per_rank / self._per_pack)

    def __iter__(self) -> Iterator[tuple[PackBatch, ...]]:
        step = self._current_step()
        end = (self.schedule.epoch_of(step) + 1) * len(self)
        pending: deque[Future[tuple[PackBatch, ...]]] = deque()
        upcoming = iter(range(step, end))
        try:
            for _ in range(step, end):
                while len(pending) <= _PREFETCH_STEPS and (ahead := next(upcoming, None)) is not None:
                    pending.append(self._planner.submit(self.prepare, ahead))
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def prepare(self, step: int) -> tuple[PackBatch, ...]:
        """The packs of one step on this rank, filled up so that all ranks run equally many forwards.

        Raises:
            DataError: a record that cannot be encoded; names it.
        """
        epoch, everyone = self.schedule.epoch_of(step), self.schedule.indices(step)
        mine = everyone[self._rank :: self._world_size]
        most = math.ceil(len(everyone) / self._world_size)
        segments = self._encode(mine.tolist(), epoch)
        # a rank that has nothing left repeats the first sample of the step, with weight 0
        donor = None if segments else self.dataset.encode(int(everyone[0]), epoch=epoch)
        packs = plan_padded(segments, per_pack=self._per_pack, num_packs=math.ceil(most / self._per_pack), donor=donor)
        return collate_packs(packs, self._collator)

    def _encode(self, indices: Sequence[int], epoch: int) -> list[Segment]:
        run = self._encoders.map if self._encoders is not None else map
        return list(run(lambda index: self.dataset.encode(index, epoch=epoch), indices))

    def close(self) -> None:
        """End the threads; what was not started is dropped."""
        for pool in (self._planner, self._encoders):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


class EvalPackList:
    """The evaluation set of one rank in packs, in file order; every rank yields equally many. Encoded as it is read, kept as far as the source keeps it."""

    def __init__(self, source: Source, *, collator: PaddedCollator, per_pack: int, rank: int = 0, world_size: int = 1) -> None:
        if len(source) < 1:
            raise ValueError("nothing to evaluate on")
        self._source = source
        self._collator = collator
        self._per_pack = per_pack
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return math.ceil(math.ceil(len(self._source) / self._world_size) / self._per_pack)

    def __iter__(self) -> Iterator[PackBatch]:
        mine = list(range(len(self._source)))[self._rank :: self._world_size]
        for number in range(len(self)):
            segments = [self._source.encode(index, epoch=0) for index in mine[number * self._per_pack : (number + 1) * self._per_pack]]
            donor = None if segments else self._source.encode(0, epoch=0)
            yield from collate_packs(plan_padded(segments, per_pack=self._per_pack, num_packs=1, donor=donor), self._collator)
