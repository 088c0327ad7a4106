"""Renders the reference page of losses and metrics from the registry."""

from __future__ import annotations

from collections.abc import Iterable

from coordexp.metrics.detection import DETECTION_METRICS
from coordexp.metrics.engine import ENGINE_METRICS
from coordexp.metrics.specs import EVAL_PREFIX, MetricSpec
from coordexp.metrics.stage1 import STAGE1_METRICS
from coordexp.metrics.stage2 import STAGE2_AB_METRICS, STAGE2_EVAL_METRICS, STAGE2_METRICS

_HEAD = """# Losses and metrics

<!-- Generated from coordexp.metrics by `make docs`; do not edit. -->

Every key below is a public name. A run writes them to `logging.jsonl` (one JSON object for each log event: `schema_version`, `mode`, `step`, `time`,
then the keys, flat) and to TensorBoard. A train event covers the optimizer steps since the last one. Evaluation writes the same keys with the prefix
`eval_` where the table says so; what is counted per optimizer step is there counted over the whole evaluation.

## Losses of Stage-1

At a position that predicts a coordinate, p is the softmax over the 1,000 coordinate logits, t the target bin, q a Gaussian over the bins around t
(`target_sigma`, cut at `target_truncate`, renormalized).

| term | formula | weight |
|---|---|---|
| softCE | -sum_k q_k log p_k | `custom.coord_soft_ce_w1.soft_ce_weight` |
| W1 | sum_k abs(CDF_p(k) - CDF_q(k)) / 999 | `custom.coord_soft_ce_w1.w1_weight` |
| CE | -log p[t] | `custom.coord_soft_ce_w1.ce_weight` |
| gate | -log sum over coordinate tokens of softmax(all logits / T) | `custom.coord_soft_ce_w1.gate_weight` |

`loss` = mean cross-entropy over the supervised tokens that are not coordinates + mean of the weighted terms over the coordinates. Each mean is taken
over the whole optimizer step, all forwards and devices together, so it depends neither on gradient accumulation nor on how samples share forwards, and
`eval_loss` is comparable.
With `coord_soft_ce_w1.enabled: false` coordinates count as ordinary tokens: one mean cross-entropy over all supervised tokens.

## How a key is folded

A value covers everything since the last log event: all forwards of a step, all steps, all devices.

- `sum`: added up.
- `mean`: total divided by count, both added up first. A rate is the quotient of two sums, never a mean of rates: `rollout/precision` is all matched objects
  by all predicted ones.
- `p90`, `p99`: of all single observations together, which travel between devices for it; between two of them it is linear.
- `max`: the largest value. `last`: the latest value.

An evaluation on rollouts logs `eval_rollout_*`, summed over all samples and devices in the same way; no loss is measured there.
"""


def render_metric_docs() -> str:
    """The text of docs/training/METRICS_LOSSES.md."""
    tables = (
        ("Keys of the training engine", ENGINE_METRICS),
        ("Keys of Stage-1", STAGE1_METRICS),
        ("Keys of training on rollouts", STAGE2_METRICS),
        ("Keys of Stage-2 AB", STAGE2_AB_METRICS),
        ("Evaluation on rollouts", STAGE2_EVAL_METRICS),
        ("Detection in evaluation", DETECTION_METRICS),
    )
    return "\n".join([_HEAD, *(_table(title, specs) for title, specs in tables)])


def _table(title: str, specs: Iterable[MetricSpec]) -> str:
    rows = [f"## {title}", "", "| key | meaning | folded by | in evaluation | needs |", "|---|---|---|---|---|"]
    for spec in specs:
        key = f"`{spec.key}`" if spec.in_train else f"`{EVAL_PREFIX}{spec.key}`"
        in_eval = f"`{EVAL_PREFIX}{spec.key}`" if spec.in_eval and spec.in_train else ("only there" if spec.in_eval else "")
        needs = ", ".join([*([f"`{spec.needs}`"] if spec.needs else []), *([spec.over] if spec.over else [])])
        meaning = spec.meaning.replace("|", "\\|")
        rows.append(f"| {key} | {meaning} | {spec.reduction.value} | {in_eval} | {needs} |")
    return "\n".join(rows) + "\n"
