"""What each optimizer step of asynchronous Stage-2 trains on: ready packs on Channel B, ground truth on Channel A and wherever packs are missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from coordexp.batching.collate import Collator, PackBatch
from coordexp.metrics.fold import MetricFold
from coordexp.training.async_rollouts import AsyncRollouts
from coordexp.training.channels import ChannelSchedule
from coordexp.training.stage2_loader import GroundTruthAhead, StepCount, collate_channel_b, count_step, report_metrics
from coordexp.training.step_loader import StepLoader
from coordexp.types.metrics import Metric
from coordexp.types.sequences import StepPlan

_STATE_FILE: Final = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class AsyncProgress:
    """Where a run stands that the step alone does not tell. Example: `AsyncProgress(num_b=11, num_rounds=12)`"""

    num_b: int
    """Channel B steps that ran."""
    num_rounds: int
    """One more than the newest round of rollouts that was trained on."""


class AsyncLoader:
    """One tuple of packs for each optimizer step, of one channel on all ranks; `len` is the steps of an epoch. One reader, as for `StepLoader`."""

    def __init__(
        self,
        ground_truth: StepLoader,
        rollouts: AsyncRollouts,
        *,
        channels: ChannelSchedule,
        collator: Collator,
        row_length: int | None,
        steps_per_epoch: int,
        samples_after: Callable[[int, int], int],
        current_step: Callable[[], int],
        num_b: int = 0,
    ) -> None:
        """Args beside the obvious.

        ground_truth: Channel A, whose n-th step is the n-th step of Channel A that runs.
        row_length: tokens of a packed row, for the fill; None: packs are padded.
        samples_after: samples of so many steps of Channel A and of Channel B, over all ranks.
        num_b: Channel B steps that ran before, in a resumed run.
        """
        self._ground_truth, self.rollouts = GroundTruthAhead(ground_truth), rollouts
        self._channels, self._collator, self._row_length = channels, collator, row_length
        self._steps_per_epoch, self._samples_after, self._current_step = steps_per_epoch, samples_after, current_step
        self._num_b = num_b
        self._fold = MetricFold()

    def __len__(self) -> int:
        return self._steps_per_epoch

    @property
    def packs_per_step(self) -> int:
        """Forwards of a full Channel A step on each rank, and of every Channel B step."""
        return self._ground_truth.packs_per_step

    @property
    def progress(self) -> AsyncProgress:
        """For a checkpoint."""
        return AsyncProgress(num_b=self._num_b, num_rounds=self.rollouts.num_rounds_used)

    def take_metrics(self) -> Mapping[str, Metric]:
        """What was measured while the last step was prepared."""
        metrics, self._fold = self._fold.snapshot(), MetricFold()
        return metrics

    def current_policy(self) -> AbstractContextManager[None]:
        """A block in which the servers hold the weights of this moment, and nobody else uses them."""
        return self.rollouts.current_policy(self._current_step())

    def __iter__(self) -> Iterator[tuple[PackBatch, ...]]:
        step = self._current_step()
        end = (step // len(self) + 1) * len(self)
        try:
            for current in range(step, end):
                num_a = current - self._num_b
                self._ground_truth.prefetch(num_a, end=num_a + end - current)
                self.rollouts.begin_step(current, self._fold)
                plan = self.rollouts.decide(current, self._fold)
                if plan.channel == "B":
                    packs = self._take(plan)
                    self._num_b += 1
                else:
                    packs, seconds = self._ground_truth.take(num_a)
                    self._fold.add("time/mask_build_s", seconds)
                done = StepCount(step=current, is_b=plan.channel == "B", num_b=self._num_b)
                count_step(self._fold, packs, done, samples_after=self._samples_after, is_ab=True)
                self._fold.add("stage2_ab/async/b_ratio_realized", self._num_b / (current + 1))
                yield packs
        finally:
            self._ground_truth.drop()

    def _take(self, plan: StepPlan) -> tuple[PackBatch, ...]:
        ready = self.rollouts.take(plan, self._fold)
        num_skipped = 0
        for facts in (pack.facts for pack in ready if pack.facts is not None):
            self._fold.update(report_metrics(facts.report, is_ab=True))
            self._fold.add("time/post_rollout_pack_s", facts.pack_s)
            num_skipped += facts.num_skipped
        head, *rest = collate_channel_b([pack.pack for pack in ready], self._collator, row_length=self._row_length, fold=self._fold)
        return (replace(head, num_skipped=num_skipped), *rest)

    def close(self) -> None:
        """End the actor and all threads."""
        self.rollouts.close()
        self._ground_truth.close()


class AsyncProgressCallback(TrainerCallback, ExportableState):
    """Writes the progress of an asynchronous run into its checkpoints."""

    def __init__(self, loader: AsyncLoader) -> None:
        self._loader = loader

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # a checkpoint that was written without this callback has no entry, and Trainer would fail to write the next one
        states: dict[str, Any] = state.stateful_callbacks  # pyright: ignore[reportAssignmentType]
        states.setdefault(type(self).__name__, self.state())

    def state(self) -> dict[str, Any]:
        """For `trainer_state.json` of a checkpoint."""
        progress = self._loader.progress
        return {"args": {}, "attributes": {"num_b": progress.num_b, "num_rounds": progress.num_rounds}}


def read_progress(checkpoint: Path | None, *, step: int, channels: ChannelSchedule) -> AsyncProgress:
    """Of a run that goes on from `checkpoint`, which is `step` steps old; what a synchronous run would have, if it was one, or a new run."""
    stored: Any = None
    if checkpoint is not None:
        states = json.loads((checkpoint / _STATE_FILE).read_text(encoding="utf-8")).get("stateful_callbacks", {})
        stored = states.get(AsyncProgressCallback.__name__)
    if stored is None:
        return AsyncProgress(num_b=channels.num_b(step), num_rounds=channels.num_b(step))
    return AsyncProgress(num_b=int(stored["attributes"]["num_b"]), num_rounds=int(stored["attributes"]["num_rounds"]))
