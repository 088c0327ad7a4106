"""Scores of a checkpoint on the validation set: greedy answers of the hf backend, `coordexp eval` with exact pixels; and differences with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from coordexp.evaluation.bootstrap import det_statistic
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.resampling import Resampling, percentile_interval, resample
from coordexp.evaluation.result import EvaluationResult
from stage2_study.study import Study, coordexp

F1_KEYS = ("f1_det@0.50", "f1_det@0.75", "f1_det@0.95", "f1_det_miou", "mean_matched_iou")
HEADLINE = "f1_det_miou"
NUM_RESAMPLES = 2000


@cache
def evaluated(predictions: Path) -> EvaluationResult:
    """Exact labels, exact pixels."""
    return evaluate(predictions, settings=EvalSettings(pixel_mode="exact", with_coco=False, with_f1ish=False))


def infer(study: Study, checkpoint: Path, out: Path, *, cpu: int | None = None) -> dict[str, Any]:
    """Answer the validation set into `out/gt_vs_pred.jsonl`; its numbers and what it cost."""
    predictions = out / "gt_vs_pred.jsonl"
    arguments = ["infer", "--gt_jsonl", study.records("val"), "--model_checkpoint", checkpoint, "--out", predictions, "--mode", "coord", "--device", "cpu"]
    arguments += ["--batch-size", 32, "--max-new-tokens", study.max_new_tokens, "--overwrite"]
    cost = coordexp(study, list(map(str, arguments)), log=out / "infer.log", cpu=cpu)
    evaluated.cache_clear()
    return {"predictions": str(predictions), "cpu_s": round(cost.cpu_s, 1), "wall_s": round(cost.wall_s, 1), **numbers(evaluated(predictions))}


def numbers(result: EvaluationResult) -> dict[str, float]:
    """What the tables show of one evaluation."""
    health = result.analysis.health
    rates = {"truncated": health.truncated or 0.0, "duplicates": health.duplicates, "malformed": health.malformed}
    objects = {"objects_per_image": health.pred_objects.mean, "gt_per_image": health.gt_objects.mean}
    rest = {key: result.metrics[f"f1_det@0.50_{key}"] for key in ("precision", "recall")}
    return {key: round(float(value), 5) for key, value in ({key: result.metrics[key] for key in F1_KEYS} | rest | objects | rates).items()}


@dataclass(frozen=True)
class Difference:
    """Of means over seeds, B - A, with its 95 % interval."""

    delta: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.delta:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def difference(a: Sequence[Path], b: Sequence[Path], *, key: str = HEADLINE, num_resamples: int = NUM_RESAMPLES) -> Difference:
    """Between the runs of two arms, one file of predictions for each seed.

    Each resample draws the images, the same for all runs, and for each arm its seeds: the interval holds what another validation set and another seed
    would change. With few seeds the second part is rough.
    """
    first, second = [evaluated(path) for path in a], [evaluated(path) for path in b]
    resampling = Resampling(len(first[0].data.images), num_resamples)
    drawn = [values[key] for values in resample([det_statistic(result) for result in (*first, *second)], resampling)]
    generator = np.random.default_rng(0)
    deltas = _of_seeds(np.stack(drawn[len(first) :]), generator) - _of_seeds(np.stack(drawn[: len(first)]), generator)
    interval = percentile_interval(deltas)
    assert interval is not None
    delta = float(np.mean([result.metrics[key] for result in second]) - np.mean([result.metrics[key] for result in first]))
    return Difference(delta, *interval)


def _of_seeds(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means over seeds that are drawn anew for each resample; `values` [seeds, resamples]."""
    num_seeds, num_resamples = values.shape
    chosen = generator.integers(0, num_seeds, (num_seeds, num_resamples))
    return np.take_along_axis(values, chosen, axis=0).mean(axis=0)


def mean_of(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(np.mean([run["eval"][key] for run in runs]))
