"""What each optimizer step of Stage-2 trains on: ground truth on Channel A, the model's own answers on Channel B.

Both channels read the training set in an order of their own, by seed and by how many steps of the channel came before, so that a resumed run goes on with
what would have come. The trainer pulls once per step, after the previous update: answers are made by the weights that the step updates.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Protocol

from coordexp.batching.collate import Collator, PackBatch, collate_packs
from coordexp.generation.seeds import rollout_seed_base
from coordexp.metrics.fold import MetricFold
from coordexp.rollout.measures import channel_b_metrics, training_metrics
from coordexp.rollout.producer import RolloutProducer
from coordexp.rollout.samples import ProducedRollout, RolloutTask
from coordexp.training.channels import ChannelSchedule
from coordexp.training.faults import OnError, SampleReader, attempt
from coordexp.training.ranks import gather_objects
from coordexp.training.schedules import Schedule
from coordexp.training.stage2_objective import Channel
from coordexp.training.step_loader import StepLoader
from coordexp.types.metrics import Metric
from coordexp.types.sequences import Pack, Segment

_PREFETCH_STEPS = 2


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


class RolloutSteps:
    """Channel B in synchronous form: rollouts for the samples of the step, then their packs."""

    def __init__(
        self,
        source: TaskSource,
        producer: RolloutProducer,
        *,
        schedule: Schedule,
        packer: SegmentPacker,
        collator: Collator,
        row_length: int | None,
        seed: int,
        is_ab: bool,
        rank: int = 0,
        world_size: int = 1,
        dump: Dump | None = None,
        on_error: OnError | None = None,
    ) -> None:
        """Args beside the obvious.

        schedule: samples of the n-th Channel B step.
        row_length: tokens of a packed row, for the fill; None: packs are padded.
        is_ab: log what Stage-2 AB has beside rollout matching.
        on_error: takes note of records whose image cannot be read, which are left out; None: they are errors.
        """
        self._on_error = on_error
        self._source, self._producer, self._schedule = source, producer, schedule
        self._packer, self._collator, self._row_length = packer, collator, row_length
        self._seed, self._is_ab, self._dump = seed, is_ab, dump
        self._rank, self._world_size = rank, world_size

    def prepare(self, number: int, *, step: int, fold: MetricFold) -> tuple[PackBatch, ...]:
        """The packs of the `number`-th Channel B step, which is optimizer step `step`. All ranks call it at the same time.

        Raises:
            BackendError: rollouts could not be made.
            DataError: a record that cannot be encoded, or a rollout that does not fit into a row.
        """
        groups = self._schedule.groups(number)
        # contiguous shares: request i of the whole step has the same seed for every number of ranks
        share = math.ceil(len(groups) / self._world_size)
        first = min(self._rank * share, len(groups))
        wanted = [(index, group.epoch) for group in groups[first : first + share] for index in group.samples]
        read = [attempt(partial(self._source.rollout_task, index, epoch=epoch), on_error=self._on_error) for index, epoch in wanted]
        tasks = [task for task in read if task is not None]
        rollouts, report = self._producer.produce(tasks, seed_base=rollout_seed_base(self._seed, global_step=step), first=first)
        fold.update(training_metrics(report))
        if self._is_ab:
            fold.update(channel_b_metrics(report))
        if self._dump is not None:
            self._dump(rollouts, step)
        places = [(index, group.epoch) for group in groups for index in group.samples]
        head, *rest = self._pack([rollout.segment for rollout in rollouts], places, fold=fold)
        return (replace(head, num_skipped=len(wanted) - len(tasks)), *rest)

    def _pack(self, segments: Sequence[Segment], places: Sequence[tuple[int, int]], *, fold: MetricFold) -> tuple[PackBatch, ...]:
        start = time.perf_counter()
        packs = self._packer(segments) if segments else ()
        # every rank runs as many forwards as the one with the most
        num_packs = max(gather_objects(len(packs), world_size=self._world_size))
        if num_packs > len(packs):
            donor = None if segments else SampleReader(self._source, self._on_error).donor(places)
            packs = self._packer(segments, num_packs=num_packs, donor=donor)
        fold.add("time/post_rollout_pack_s", time.perf_counter() - start)
        _count_packs(fold, [pack for pack in packs if not pack.is_filler], row_length=self._row_length)
        start = time.perf_counter()
        batches = collate_packs(packs, self._collator)
        fold.add("time/mask_build_s", time.perf_counter() - start)
        return tuple(_on_channel(batch, "B") for batch in batches)


class Stage2Loader:
    """One tuple of packs for each optimizer step, of one channel on all ranks; `len` is the steps of an epoch. One reader, as for `StepLoader`."""

    def __init__(
        self,
        ground_truth: StepLoader | None,
        rollouts: RolloutSteps,
        *,
        channels: ChannelSchedule,
        steps_per_epoch: int,
        samples_after: Callable[[int, int], int],
        current_step: Callable[[], int],
        is_ab: bool,
    ) -> None:
        """Args beside the obvious.

        ground_truth: Channel A, whose n-th step is the n-th Channel A step; None when there is none.
        samples_after: samples of so many steps of Channel A and of Channel B, over all ranks.
        """
        self._ground_truth, self._rollouts = ground_truth, rollouts
        self._channels, self._steps_per_epoch, self._samples_after = channels, steps_per_epoch, samples_after
        self._current_step, self._is_ab = current_step, is_ab
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ground-truth")
        self._fold = MetricFold()

    def __len__(self) -> int:
        return self._steps_per_epoch

    @property
    def packs_per_step(self) -> int:
        """Forwards of a full Channel A step on each rank; those of Channel B depend on the answers."""
        return self._ground_truth.packs_per_step if self._ground_truth is not None else 1

    def take_metrics(self) -> Mapping[str, Metric]:
        """What was measured while the last step was prepared."""
        metrics, self._fold = self._fold.snapshot(), MetricFold()
        return metrics

    def __iter__(self) -> Iterator[tuple[PackBatch, ...]]:
        step = self._current_step()
        end = (step // len(self) + 1) * len(self)
        upcoming = iter([number for number in range(step, end) if not self._channels.is_b(number)])
        pending: deque[Future[tuple[tuple[PackBatch, ...], float]]] = deque()
        try:
            for current in range(step, end):
                while len(pending) < _PREFETCH_STEPS and (ahead := next(upcoming, None)) is not None:
                    pending.append(self._ahead.submit(self._prepare_a, self._channels.num_a(ahead)))
                if self._channels.is_b(current):
                    packs = self._rollouts.prepare(self._channels.num_b(current), step=current, fold=self._fold)
                else:
                    packs, seconds = pending.popleft().result()
                    self._fold.add("time/mask_build_s", seconds)
                self._count(packs, current)
                yield packs
        finally:
            for future in pending:
                future.cancel()

    def _prepare_a(self, number: int) -> tuple[tuple[PackBatch, ...], float]:
        """(packs, seconds)"""
        assert self._ground_truth is not None, "a schedule with Channel A needs its loader"
        start = time.perf_counter()
        packs = tuple(_on_channel(batch, "A") for batch in self._ground_truth.prepare(number))
        return packs, time.perf_counter() - start

    def _count(self, packs: Sequence[PackBatch], step: int) -> None:
        num_samples = sum(batch.extra("pack_num_samples", reader="Stage2Loader") for batch in packs if not batch.is_filler)
        self._fold.add("train/samples_total", num_samples)
        self._fold.add("train/samples_seen", self._samples_after(self._channels.num_a(step + 1), self._channels.num_b(step + 1)))
        self._fold.add("train/micro_steps", len(packs))
        if not self._is_ab:
            return
        is_b = self._channels.is_b(step)
        self._fold.add("stage2/channel_a", float(not is_b))
        self._fold.add("stage2/channel_b", float(is_b))
        self._fold.add("stage2_ab/b_ratio_realized", self._channels.num_b(step + 1) / (step + 1))

    def close(self) -> None:
        """End the threads; what was not started is dropped."""
        self._ahead.shutdown(wait=True, cancel_futures=True)
        if self._ground_truth is not None:
            self._ground_truth.close()


def _on_channel(batch: PackBatch, channel: Channel) -> PackBatch:
    return replace(batch, extras={**batch.extras, "channel": channel})


def _count_packs(fold: MetricFold, packs: Sequence[Pack], *, row_length: int | None) -> None:
    """`packing/*` of the packs of one step on one rank, fillers aside. A padded pack is as long as its longest segment in each of its rows."""
    capacity = [row_length if row_length is not None else len(pack.segments) * max(segment.length for segment in pack.segments) for pack in packs]
    num_segments, num_tokens = sum(len(pack.segments) for pack in packs), sum(pack.num_tokens for pack in packs)
    fold.add("packing/post_rollout_fill", num_tokens, sum(capacity))
    fold.add("packing/post_rollout_segments", num_segments, len(packs))
    fold.add("packing/post_rollout_buffer", 0.0)
    fold.add("packing/window_packs", len(packs))
    fold.add("packing/window_segments_total", num_segments)
    fold.add("packing/window_avg_fill", num_tokens, sum(capacity))
