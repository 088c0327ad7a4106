"""What each optimizer step of Stage-2 trains on: ground truth on Channel A, the model's own answers on Channel B.

Both channels read the training set in an order of their own, by seed and by how many steps of the channel came before, so that a resumed run goes on with
what would have come. The trainer pulls once per step, after the previous update: answers are made by the weights that the step updates.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from coordexp.batching.collate import Collator, PackBatch, collate_packs
from coordexp.metrics.fold import MetricFold
from coordexp.rollout.measures import channel_b_metrics, training_metrics
from coordexp.rollout.report import RolloutReport
from coordexp.training.channels import ChannelSchedule
from coordexp.training.offload import RolloutRoom
from coordexp.training.ranks import gather_objects
from coordexp.training.rollout_rounds import RolloutRounds
from coordexp.training.stage2_objective import Channel
from coordexp.training.step_loader import StepLoader
from coordexp.types.metrics import Metric
from coordexp.types.sequences import Pack

_PREFETCH_STEPS = 2


class GroundTruthAhead:
    """The steps of Channel A, prepared by a thread while others train. One reader."""

    def __init__(self, loader: StepLoader) -> None:
        self._loader = loader
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ground-truth")
        self._pending: deque[tuple[int, Future[tuple[tuple[PackBatch, ...], float]]]] = deque()

    @property
    def packs_per_step(self) -> int:
        """Forwards of a full step on each rank."""
        return self._loader.packs_per_step

    def prefetch(self, number: int, *, end: int) -> None:
        """Begin to prepare the `number`-th step of Channel A and those behind it, up to before `end`."""
        ahead = self._pending[-1][0] + 1 if self._pending else number
        for step in range(ahead, min(end, number + _PREFETCH_STEPS)):
            self._pending.append((step, self._thread.submit(self._prepare, step)))

    def take(self, number: int) -> tuple[tuple[PackBatch, ...], float]:
        """(packs, seconds that they took) of the `number`-th step, which was prefetched."""
        step, future = self._pending.popleft()
        assert step == number, f"step {number} of Channel A was asked for, and {step} is next"
        return future.result()

    def _prepare(self, number: int) -> tuple[tuple[PackBatch, ...], float]:
        start = time.perf_counter()
        packs = tuple(_on_channel(batch, "A") for batch in self._loader.prepare(number))
        return packs, time.perf_counter() - start

    def drop(self) -> None:
        """Forget what was prefetched."""
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()

    def close(self) -> None:
        """End the threads; what was not started is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._loader.close()


class RolloutSteps:
    """Channel B in synchronous form: rollouts for the samples of the step, then their packs."""

    def __init__(
        self,
        rounds: RolloutRounds,
        *,
        collator: Collator,
        row_length: int | None,
        is_ab: bool,
        world_size: int = 1,
        room: RolloutRoom | None = None,
    ) -> None:
        """Args beside the obvious.

        row_length: tokens of a packed row, for the fill; None: packs are padded.
        is_ab: log what Stage-2 AB has beside rollout matching.
        room: surrounds the rollouts of a step; None: they are made by the learner's own weights, and nothing moves.
        """
        self._room = room or RolloutRoom()
        self._rounds, self._collator, self._row_length = rounds, collator, row_length
        self._is_ab, self._world_size = is_ab, world_size

    def prepare(self, number: int, *, step: int, fold: MetricFold) -> tuple[PackBatch, ...]:
        """The packs of the `number`-th Channel B step, which is optimizer step `step`. All ranks call it at the same time.

        Raises:
            BackendError: rollouts could not be made.
            DataError: a record that cannot be encoded, or a rollout that does not fit into a row.
        """
        chosen = self._rounds.tasks(number)
        with self._room(step) as times:
            rollouts, report = self._rounds.produce(chosen, step=step)
        for key, seconds in (("time/weight_sync_s", times.sync_s), ("time/offload_s", times.offload_s)):
            if seconds is not None:
                fold.add(key, seconds)
        fold.update(report_metrics(report, is_ab=self._is_ab))
        self._rounds.dump(rollouts, step=step)
        start = time.perf_counter()
        segments = [rollout.segment for rollout in rollouts]
        packs = self._rounds.pack(segments, chosen)
        # every rank runs as many forwards as the one with the most; one of weight 0 when no sample of the step could be read on any
        num_packs = max(1, *gather_objects(len(packs), world_size=self._world_size))
        if num_packs > len(packs):
            packs = self._rounds.pack(segments, chosen, num_packs=num_packs)
        fold.add("time/post_rollout_pack_s", time.perf_counter() - start)
        head, *rest = collate_channel_b(packs, self._collator, row_length=self._row_length, fold=fold)
        return (replace(head, num_skipped=chosen.num_skipped), *rest)


def report_metrics(report: RolloutReport, *, is_ab: bool) -> Mapping[str, Metric]:
    """Of the rollouts of one round on one device."""
    return {**training_metrics(report), **(channel_b_metrics(report) if is_ab else {})}


def collate_channel_b(packs: Sequence[Pack], collator: Collator, *, row_length: int | None, fold: MetricFold) -> tuple[PackBatch, ...]:
    """The batches of a Channel B step on one rank, measured."""
    _count_packs(fold, [pack for pack in packs if not pack.is_filler], row_length=row_length)
    start = time.perf_counter()
    batches = collate_packs(packs, collator)
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
        self._ground_truth = GroundTruthAhead(ground_truth) if ground_truth is not None else None
        self._rollouts = rollouts
        self._channels, self._steps_per_epoch, self._samples_after = channels, steps_per_epoch, samples_after
        self._current_step, self._is_ab = current_step, is_ab
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
        try:
            for current in range(step, end):
                if self._ground_truth is not None:
                    self._ground_truth.prefetch(self._channels.num_a(current), end=self._channels.num_a(end))
                if self._channels.is_b(current):
                    packs = self._rollouts.prepare(self._channels.num_b(current), step=current, fold=self._fold)
                else:
                    assert self._ground_truth is not None, "a schedule with Channel A needs its loader"
                    packs, seconds = self._ground_truth.take(self._channels.num_a(current))
                    self._fold.add("time/mask_build_s", seconds)
                done = StepCount(step=current, is_b=self._channels.is_b(current), num_b=self._channels.num_b(current + 1))
                count_step(self._fold, packs, done, samples_after=self._samples_after, is_ab=self._is_ab)
                yield packs
        finally:
            if self._ground_truth is not None:
                self._ground_truth.drop()

    def close(self) -> None:
        """End the threads; what was not started is dropped."""
        if self._ground_truth is not None:
            self._ground_truth.close()


@dataclass(frozen=True, slots=True)
class StepCount:
    """A step, and how many of Channel B there were up to it and with it."""

    step: int
    is_b: bool
    num_b: int


def count_step(fold: MetricFold, packs: Sequence[PackBatch], done: StepCount, *, samples_after: Callable[[int, int], int], is_ab: bool) -> None:
    """`train/*` of a step on one rank, and which channel it was of."""
    num_samples = sum(batch.extra("pack_num_samples", reader="Stage2Loader") for batch in packs if not batch.is_filler)
    fold.add("train/samples_total", num_samples)
    fold.add("train/samples_seen", samples_after(done.step + 1 - done.num_b, done.num_b))
    fold.add("train/micro_steps", len(packs))
    if not is_ab:
        return
    fold.add("stage2/channel_a", float(not done.is_b))
    fold.add("stage2/channel_b", float(done.is_b))
    fold.add("stage2_ab/b_ratio_realized", done.num_b / (done.step + 1))


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
