"""Evaluation of Stage-2: rollout, strict parse, match; no teacher-forced loss. Counts are summed over all ranks, rates are quotients of the sums."""

from __future__ import annotations

from functools import partial, reduce
from operator import add

from coordexp.metrics.fold import MetricFold
from coordexp.rollout.measures import evaluation_metrics
from coordexp.rollout.producer import RolloutReader
from coordexp.training.detection import spread
from coordexp.training.faults import OnError, attempt
from coordexp.training.ranks import gather_objects
from coordexp.training.rollout_rounds import TaskSource


class RolloutEval:
    """Called by the trainer in each evaluation, on every rank at the same time.

    It draws no random number of the training, and leaves the model in the mode that it was in.

    Example: `RolloutEval(source, reader, num_records=200, seed=42)()["rollout_f1"] == 0.61`
    """

    def __init__(
        self,
        source: TaskSource,
        reader: RolloutReader,
        *,
        num_records: int,
        limit: int = 0,
        seed: int,
        window: int = 32,
        rank: int = 0,
        world_size: int = 1,
        on_error: OnError | None = None,
    ) -> None:
        """Args beside the obvious.

        limit: records that are looked at, spread evenly over the set, the same each time; 0: all.
        seed: of sampled rollouts; greedy ones do not need it.
        window: prompts that are held together.
        on_error: takes note of records whose image cannot be read, which are left out; None: they are errors.
        """
        self._source, self._reader = source, reader
        self._sample = spread(num_records, limit)
        self._seed, self._window, self._on_error = seed, window, on_error
        self._rank, self._world_size = rank, world_size

    def __call__(self) -> dict[str, float]:
        """`rollout_*`, the same on every rank; the trainer adds the prefix.

        Raises:
            BackendError: rollouts could not be made.
        """
        share = -(-len(self._sample) // self._world_size)
        mine = self._sample[self._rank * share : (self._rank + 1) * share]
        reports = []
        for start in range(0, max(len(mine), 1), self._window):
            read = [attempt(partial(self._source.rollout_task, index, epoch=0), on_error=self._on_error) for index in mine[start : start + self._window]]
            tasks = [task for task in read if task is not None]
            reports.append(self._reader.read(tasks, seed_base=self._seed, first=self._rank * share + start)[1])
        fold = MetricFold()
        for metrics in gather_objects(dict(evaluation_metrics(reduce(add, reports))), world_size=self._world_size):
            fold.update(metrics)
        return fold.values()
