"""What happens beside the steps: the run's log, progress, and the epoch count of resumed runs."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from coordexp.training.ranks import gather_objects
from coordexp.training.run_log import RunLog
from coordexp.types.progress import Progress

_SHOWN = (
    "loss",
    "token_acc",
    "coord_diag/expected_bin_mae",
    "eval_loss",
    "eval_token_acc",
    "eval_coord_diag/expected_bin_mae",
    "eval_det_f1",
    "eval_det_f1_miou",
    "rollout/f1",
    "eval_rollout_f1",
)
_SHOWN_NAMES = {"coord_diag/expected_bin_mae": "bin error", "eval_coord_diag/expected_bin_mae": "eval bin error"}


class EpochCallback(TrainerCallback):
    """Keeps `state.epoch` right when a run resumes inside an epoch, where Trainer would count from its start."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        state.epoch = state.global_step / self._steps_per_epoch


class CpuClockCallback(TrainerCallback, ExportableState):
    """Counts the processor seconds of training, of all threads and ranks: data, rollouts, forward, backward, update; not evaluations and checkpoints.

    It must stand before the run's log, whose last event it completes by `train_cpu_s`. What a resumed run had spent comes from its checkpoint.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        """limit_s: training ends after the step in which so much is spent; None: no limit."""
        self._limit_s = limit_s
        self._mark = 0.0
        self.spent_s = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # a checkpoint that was written without this callback has no entry, and Trainer would fail to write the next one
        states: dict[str, Any] = state.stateful_callbacks  # pyright: ignore[reportAssignmentType]
        stored = states.setdefault(type(self).__name__, self.state())
        self.spent_s = float(stored["attributes"]["spent_s"])
        self._mark = time.process_time()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.process_time()
        self.spent_s += sum(gather_objects(now - self._mark, world_size=args.world_size))
        self._mark = now
        if self._limit_s is not None and self.spent_s >= self._limit_s:
            control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._mark = time.process_time()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._mark = time.process_time()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is not None and "train_runtime" in logs:
            logs["train_cpu_s"] = self.spent_s

    def state(self) -> dict[str, Any]:
        """For `trainer_state.json` of a checkpoint."""
        return {"args": {"limit_s": self._limit_s}, "attributes": {"spent_s": self.spent_s}}


class RunLogCallback(TrainerCallback):
    """Writes each log event of rank 0 to `logging.jsonl`."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and logs:
            self._log.write(logs, step=state.global_step)


class ProgressCallback(TrainerCallback):
    """A bar over the optimizer steps, and a line for each evaluation and each tenth of the training."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps: Iterator[int] | None = None
        self._start = 0.0
        self._first_step = 0
        self._next_line = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._start, self._first_step = time.perf_counter(), state.global_step
        self._steps = iter(self._progress.track(range(state.global_step, state.max_steps), "train", total=state.max_steps - state.global_step))
        next(self._steps, None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._steps is not None:
            next(self._steps, None)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        is_last = state.global_step >= state.max_steps
        is_evaluation = any(key.startswith("eval_") for key in logs)
        if is_evaluation or state.global_step >= self._next_line or is_last:
            if not is_evaluation:
                self._next_line = state.global_step + state.max_steps / 10
            self._progress.say(self._describe(logs, state))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if isinstance(self._steps, Generator):
            # a training that stops early leaves the bar open otherwise
            self._steps.close()
        self._steps = None

    def _describe(self, logs: dict[str, float], state: TrainerState) -> str:
        shown = ", ".join(f"{_SHOWN_NAMES.get(key, key)} {logs[key]:.4g}" for key in _SHOWN if key in logs)
        seconds = time.perf_counter() - self._start
        done = state.global_step - self._first_step
        rate = f", {seconds / done:.2f} s a step, {seconds / done * (state.max_steps - state.global_step):.0f} s left" if done else ""
        return f"step {state.global_step}/{state.max_steps}: {shown}{rate}"
