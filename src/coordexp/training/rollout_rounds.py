"""Rounds of rollouts on one rank: which samples, with which seeds, and the packs that they become. The n-th round is that of the n-th Channel B step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from coordexp.generation.seeds import rollout_seed_base
from coordexp.rollout.producer import RolloutProducer
from coordexp.rollout.report import RolloutReport
from coordexp.rollout.samples import ProducedRollout, RolloutTask
from coordexp.training.faults import OnError, SampleReader, attempt
from coordexp.training.schedules import Schedule
from coordexp.types.sequences import Pack, Segment


class TaskSource(Protocol):
    """The training set as questions to the model, and as ground truth."""

    def rollout_task(self, index: int, *, epoch: int) -> RolloutTask: ...

    def encode(self, index: int, *, epoch: int) -> Segment: ...

    def __len__(self) -> int: ...


class SegmentPacker(Protocol):
    """Segments of a step on one rank to packs: exactly `num_packs` when given, filled up by fillers that repeat `donor` or the shortest segment."""

    def __call__(self, segments: Sequence[Segment], *, num_packs: int | None = None, donor: Segment | None = None) -> tuple[Pack, ...]: ...


Dump = Callable[[Sequence[ProducedRollout], int], object]
"""Gets the rollouts of a step on this rank, and the step."""


@dataclass(frozen=True, slots=True)
class RoundTasks:
    """The share of one rank in a round, encoded."""

    tasks: tuple[RolloutTask, ...]
    first: int
    """Place of the first sample of this rank in the round."""
    num_skipped: int
    """Samples of this rank that could not be read."""
    places: tuple[tuple[int, int], ...]
    """(index, epoch) of the samples of all ranks."""


class RolloutRounds:
    """Reads, rolls out and packs. One thread at a time.

    Example:
        chosen = rounds.tasks(7)
        rollouts, report = rounds.produce(chosen, step=140)
        packs = rounds.pack([rollout.segment for rollout in rollouts], chosen)
    """

    def __init__(
        self,
        source: TaskSource,
        producer: RolloutProducer,
        *,
        schedule: Schedule,
        packer: SegmentPacker,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        dump: Dump | None = None,
        on_error: OnError | None = None,
    ) -> None:
        """Args beside the obvious.

        schedule: samples of the n-th round, over all ranks.
        on_error: takes note of records whose image cannot be read, which are left out; None: they are errors.
        """
        self._source, self._producer, self._schedule, self._packer = source, producer, schedule, packer
        self._seed, self._dump, self._on_error = seed, dump, on_error
        self._rank, self._world_size = rank, world_size

    @property
    def rounds_per_epoch(self) -> int:
        return self._schedule.steps_per_epoch

    def tasks(self, number: int) -> RoundTasks:
        """The samples of a round.

        Raises:
            DataError: a record that cannot be encoded.
        """
        groups = self._schedule.groups(number)
        # contiguous shares: request i of the whole round has the same seed for every number of ranks
        share = math.ceil(len(groups) / self._world_size)
        first = min(self._rank * share, len(groups))
        wanted = [(index, group.epoch) for group in groups[first : first + share] for index in group.samples]
        read = [attempt(partial(self._source.rollout_task, index, epoch=epoch), on_error=self._on_error) for index, epoch in wanted]
        tasks = tuple(task for task in read if task is not None)
        places = tuple((index, group.epoch) for group in groups for index in group.samples)
        return RoundTasks(tasks, first=first, num_skipped=len(wanted) - len(tasks), places=places)

    def produce(self, chosen: RoundTasks, *, step: int) -> tuple[tuple[ProducedRollout, ...], RolloutReport]:
        """Answers and targets; `step` is the optimizer step that the round is planned for, which decides the seeds.

        Raises:
            BackendError: rollouts could not be made.
            DataError: a rollout does not fit into a row.
        """
        return self._producer.produce(chosen.tasks, seed_base=rollout_seed_base(self._seed, global_step=step), first=chosen.first)

    def dump(self, rollouts: Sequence[ProducedRollout], *, step: int) -> None:
        """Show rollouts to people, if that is due."""
        if self._dump is not None:
            self._dump(rollouts, step)

    def pack(self, segments: Sequence[Segment], chosen: RoundTasks, *, num_packs: int | None = None) -> tuple[Pack, ...]:
        """The packs of a rank; with `num_packs` exactly so many, filled up by fillers of weight 0. None of no segments without it."""
        if not segments and num_packs is None:
            return ()
        donor = None if segments or num_packs == 0 else SampleReader(self._source, self._on_error).donor(chosen.places)
        return self._packer(segments, num_packs=num_packs, donor=donor)
