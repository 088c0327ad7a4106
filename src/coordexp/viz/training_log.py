"""Training curves from the `logging.jsonl` of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordexp.evaluation.lines import iter_lines
from coordexp.types.errors import DataError
from coordexp.viz.charts import Series, line_chart, smooth

LOG_NAME = "logging.jsonl"

SHOWN_FIRST = (
    "loss",
    "coord_diag/expected_bin_mae",
    "text_token_acc",
    "coord_diag/soft_ce",
    "coord_diag/w1",
    "base_ce/loss",
    "coord_diag/coord_vocab_mass",
    "token_acc",
    "grad_norm",
    "learning_rate",
)
"""Keys that get a chart, in this order; those that the log lacks are left out."""

_SMOOTH_FROM = 60
"""Points from which a smoothed line is drawn over the raw one."""


@dataclass(slots=True)
class Curve:
    """One key over the steps."""

    steps: list[float] = field(default_factory=list[float])
    values: list[float] = field(default_factory=list[float])


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawn curve. `svg` is safe markup."""

    title: str
    svg: str
    last: float


def read_log(run: Path) -> dict[str, Curve]:
    """Curves by key; evaluation keys start with `eval_`. Lines that a killed run left half-written are skipped.

    Raises:
        DataError: there is no log, or it holds no steps.
    """
    path = run / LOG_NAME if run.is_dir() else run
    if not path.is_file():
        raise DataError(f"there is no {LOG_NAME}", where=str(run), fix="give the folder of a training run, the one that holds run_metadata.json")
    curves: dict[str, Curve] = {}
    for _, event in iter_lines(path, on_bad=_skip):
        step = event.get("step")
        if isinstance(step, int | float):
            _add(curves, event, float(step))
    if not curves:
        raise DataError("holds no logged step", where=str(path), fix="train for at least one step")
    return curves


def draw_curves(curves: Mapping[str, Curve], *, names: Sequence[str] = SHOWN_FIRST) -> tuple[Chart, ...]:
    """A chart for each of the names that the log has; the evaluation of a key is drawn with it."""
    return tuple(_draw(name, curves[name], curves.get(f"eval_{name}")) for name in names if name in curves)


def _add(curves: dict[str, Curve], event: Mapping[str, Any], step: float) -> None:
    for key, value in event.items():
        if key in ("step", "time", "schema_version", "epoch") or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if math.isfinite(value):
            curve = curves.setdefault(key, Curve())
            curve.steps.append(step)
            curve.values.append(float(value))


def _draw(name: str, curve: Curve, evaluation: Curve | None) -> Chart:
    x, y = tuple(curve.steps), tuple(curve.values)
    is_long = len(x) >= _SMOOTH_FROM
    lines = [Series("train", x, y, "raw" if is_long else "main")]
    if is_long:
        lines.append(Series("train", x, smooth(y, window=max(5, len(x) // 25))))
    if evaluation is not None:
        lines.append(Series("eval", tuple(evaluation.steps), tuple(evaluation.values), "second"))
    return Chart(name, line_chart(lines, title=name, x_name="step"), y[-1])


def _skip(line: int) -> None:
    return None
