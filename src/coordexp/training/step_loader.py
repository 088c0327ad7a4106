"""What each optimizer step trains on, as tensors: a function of (seed, step, rank), so that a resumed run sees exactly what the straight run would have seen.

The next steps are prepared by threads while the current one trains. Timing decides only when something is ready, never what it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Protocol

from coordexp.batching.collate import Collator, PackBatch, collate_packs
from coordexp.batching.plan import plan_padded, plan_single_rows
from coordexp.training.faults import OnError, SampleReader, Source
from coordexp.training.schedules import Group, Schedule
from coordexp.types.sequences import Pack, Segment

_PREFETCH_STEPS = 2


class PackMaker(Protocol):
    """How the groups of a step on one rank become packs: `PaddedPacks` or `PackedRows`."""

    def num_packs(self, num_groups: int) -> int: ...

    def __call__(self, groups: Sequence[Sequence[Segment]], *, num_packs: int, donor: Segment | None) -> tuple[Pack, ...]:
        """Exactly `num_packs` packs; `donor` is what filler packs repeat when there are no groups."""
        ...


class PaddedPacks:
    """Packs of at most `per_pack` samples, to be padded to their longest."""

    def __init__(self, per_pack: int) -> None:
        self._per_pack = per_pack

    def num_packs(self, num_groups: int) -> int:
        return math.ceil(num_groups / self._per_pack)

    def __call__(self, groups: Sequence[Sequence[Segment]], *, num_packs: int, donor: Segment | None) -> tuple[Pack, ...]:
        return plan_padded([segment for group in groups for segment in group], per_pack=self._per_pack, num_packs=num_packs, donor=donor)


class PackedRows:
    """Each group is a pack: a row that was planned."""

    def num_packs(self, num_groups: int) -> int:
        return num_groups

    def __call__(self, groups: Sequence[Sequence[Segment]], *, num_packs: int, donor: Segment | None) -> tuple[Pack, ...]:
        return plan_single_rows(groups, num_packs=num_packs, donor=donor)


class StepLoader:
    """Iterates over the rest of the current epoch, one tuple of packs for each optimizer step; `len` is the steps of an epoch.

    One reader: the trainer pulls once per optimizer step, after the previous update. `current_step` says which step comes next; it is read when an
    epoch starts.
    """

    def __init__(
        self,
        source: Source,
        *,
        schedule: Schedule,
        collator: Collator,
        make_packs: PackMaker,
        current_step: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 1,
        say: Callable[[str], object] = lambda _: None,
        on_error: OnError | None = None,
    ) -> None:
        """`on_error` takes note of samples that cannot be read and are left out; None: they are errors."""
        self.dataset = source
        self._reader = SampleReader(source, on_error)
        self.schedule = schedule
        self._collator = collator
        self._make_packs = make_packs
        self._current_step = current_step
        self._rank, self._world_size = rank, world_size
        self._say = say
        self._encoders = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="encode") if num_threads > 1 else None
        self._planner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plan")

    def __len__(self) -> int:
        return self.schedule.steps_per_epoch

    @property
    def packs_per_step(self) -> int:
        """Forwards of a full step on each rank."""
        return self._make_packs.num_packs(math.ceil(self.schedule.groups_per_step / self._world_size))

    def __iter__(self) -> Iterator[tuple[PackBatch, ...]]:
        step = self._current_step()
        epoch = self.schedule.epoch_of(step)
        end = (epoch + 1) * len(self)
        if description := self.schedule.describe(epoch):
            self._say(description)
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
        everyone = self.schedule.groups(step)
        mine, num_skipped = self._encode(everyone[self._rank :: self._world_size])
        most = math.ceil(len(everyone) / self._world_size)
        # a rank that has nothing left repeats a sample of the step, with weight 0
        donor = None if mine else self._reader.donor((sample, group.epoch) for group in everyone for sample in group.samples)
        packs = self._make_packs(mine, num_packs=self._make_packs.num_packs(most), donor=donor)
        first, *others = collate_packs(packs, self._collator)
        return (replace(first, num_skipped=num_skipped), *others)

    def _encode(self, groups: Sequence[Group]) -> tuple[list[list[Segment]], int]:
        """(samples of each group that has any left, number of samples that were left out)."""
        run = self._encoders.map if self._encoders is not None else map
        wanted = [(sample, group.epoch) for group in groups for sample in group.samples]
        segments = iter(list(run(lambda item: self._reader.read(item[0], epoch=item[1]), wanted)))
        read = [[segment for segment in islice(segments, len(group.samples)) if segment is not None] for group in groups]
        return [group for group in read if group], len(wanted) - sum(map(len, read))

    def close(self) -> None:
        """End the threads; what was not started is dropped."""
        for pool in (self._planner, self._encoders):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)


class EvalPackList:
    """The evaluation set of one rank in packs; every rank yields equally many. Encoded as it is read, kept as far as the source keeps it."""

    def __init__(
        self, source: Source, *, groups: Sequence[Sequence[int]], collator: Collator, rank: int = 0, world_size: int = 1, on_error: OnError | None = None
    ) -> None:
        """`groups` are the samples of each forward, over all ranks: rank r of w takes every w-th, from r. `on_error` as for `StepLoader`."""
        if not groups:
            raise ValueError("nothing to evaluate on")
        self._reader = SampleReader(source, on_error)
        self._groups = groups
        self._collator = collator
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return math.ceil(len(self._groups) / self._world_size)

    def __iter__(self) -> Iterator[PackBatch]:
        mine = self._groups[self._rank :: self._world_size]
        for group in mine:
            segments = tuple(segment for index in group if (segment := self._reader.read(index, epoch=0)) is not None)
            pack = Pack(segments=segments) if segments else self._filler()
            yield replace(self._collator(pack), num_skipped=len(group) - len(segments))
        if len(mine) < len(self):
            yield self._collator(self._filler())

    def _filler(self) -> Pack:
        return Pack(segments=(self._reader.donor(()),), is_filler=True)


def eval_groups(num_samples: int, *, per_pack: int, world_size: int = 1) -> list[list[int]]:
    """Samples in file order, at most `per_pack` to a forward, every `world_size`-th one together: each rank reads evenly from the whole set.

    Example: `eval_groups(5, per_pack=2, world_size=2) == [[0, 2], [1, 3], [4]]`
    """
    shares = [range(rank, num_samples, world_size) for rank in range(world_size)]
    rounds = math.ceil(len(shares[0]) / per_pack)
    groups = [list(share[number * per_pack : (number + 1) * per_pack]) for number in range(rounds) for share in shares]
    return [group for group in groups if group]
