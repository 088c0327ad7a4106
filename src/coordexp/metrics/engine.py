"""The keys that the training engine itself logs, in every kind of run."""

from __future__ import annotations

from typing import Final

from coordexp.metrics.specs import MetricSpec, RunKind
from coordexp.types.metrics import Reduction

_ALL: Final = frozenset(RunKind)


def _key(key: str, meaning: str, *, reduction: Reduction = Reduction.LAST, in_eval: bool = False, in_train: bool = True, needs: str = "") -> MetricSpec:
    return MetricSpec(key, meaning, reduction, _ALL, in_eval=in_eval, in_train=in_train, needs=needs)


ENGINE_METRICS: Final = (
    _key(
        "loss",
        "what is minimized: every term divided by its own count over the whole optimizer step, all devices together; mean over the steps since the last event",
        reduction=Reduction.MEAN,
        in_eval=True,
    ),
    _key("grad_norm", "norm of the gradient before clipping, at the last step"),
    _key("learning_rate", "learning rate of the last step; with rates by part of the model, that of the language model, or of the first part that is trained"),
    _key(
        "data/skipped_samples",
        "samples left out because they cannot be read (data.on_error: skip), all devices together: since the last event, in evaluation over the whole of it",
        reduction=Reduction.SUM,
        in_eval=True,
    ),
    _key("epoch", "passes over the training data so far"),
    _key("train_runtime", "seconds of the whole training, at its end"),
    _key("train_cpu_s", "processor seconds of the whole training, all threads and devices' processes, without evaluations and checkpoints, at its end"),
    _key("train_samples_per_second", "samples per second of the whole training, at its end"),
    _key("train_steps_per_second", "optimizer steps per second of the whole training, at its end"),
    _key("train_loss", "mean loss over the whole training, at its end"),
    _key("total_flos", "floating-point operations of the whole training, estimated, at its end"),
    _key("runtime", "seconds of the evaluation", in_eval=True, in_train=False),
    _key("samples_per_second", "samples per second of the evaluation", in_eval=True, in_train=False),
    _key("steps_per_second", "forwards per second of the evaluation", in_eval=True, in_train=False),
)
