"""Which checkpoint is the best, when training stops early, and from when on checkpoints are written."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from coordexp.metrics.direction import is_greater_better
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import EVAL_PREFIX
from coordexp.types.errors import ConfigError


def best_metric(values: Mapping[str, Any], *, is_needed: bool = False) -> dict[str, Any]:
    """`metric_for_best_model` and `greater_is_better` for TrainingArguments; empty when nothing is chosen by a metric.

    Args:
        values: training settings by the names of TrainingArguments.
        is_needed: something of ours chooses by it (early stopping).

    Raises:
        ConfigError: no evaluation logs that metric, or which direction is better is not known.
    """
    name = values.get("metric_for_best_model")
    if name is None and not (is_needed or values.get("load_best_model_at_end") or values.get("save_strategy") == "best"):
        return {}
    key = str(name or "loss").removeprefix(EVAL_PREFIX)
    known = [spec.key for spec in REGISTRY if spec.in_eval]
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        fix = f"did you mean {EVAL_PREFIX}{close[0]}?" if close else "choose one from docs/training/METRICS_LOSSES.md that is there in evaluation"
        raise ConfigError(f"no evaluation logs '{name}'", where="training.metric_for_best_model", fix=fix)
    given = values.get("greater_is_better")
    greater = is_greater_better(key) if given is None else bool(given)
    if greater is None:
        raise ConfigError(f"whether more of '{key}' is better is not known", where="training.greater_is_better", fix="set it to true or false")
    return {"metric_for_best_model": EVAL_PREFIX + key, "greater_is_better": greater}


class EarlyStop(EarlyStoppingCallback):
    """Ends training after `patience` evaluations in a row that are not better than the best by more than `threshold`. A resumed run goes on counting."""

    def __init__(self, patience: int, threshold: float = 0.0) -> None:
        super().__init__(early_stopping_patience=patience, early_stopping_threshold=threshold)
        self.has_stopped = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # a checkpoint that was written without this callback has no entry, and Trainer would fail to write the next one
        states: dict[str, Any] = state.stateful_callbacks  # pyright: ignore[reportAssignmentType]
        stored = states.setdefault(type(self).__name__, self.state())
        self.early_stopping_patience_counter = int(stored["attributes"]["early_stopping_patience_counter"])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **kwargs: Any) -> None:
        before = control.should_training_stop
        super().on_evaluate(args, state, control, metrics, **kwargs)
        self.has_stopped = control.should_training_stop and not before


class SaveDelay(TrainerCallback):
    """No checkpoint before step `steps`. Must stand behind the callbacks that decide to save."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step < self._steps:
            control.should_save = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.on_step_end(args, state, control)
