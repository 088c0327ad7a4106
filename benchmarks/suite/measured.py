"""What was measured, in a file beside the scripts, and its table between two marks of the page.

`measured.json`: form (`quick`, `long`) → benchmark → its run: machine, seconds, figures by key.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordexp.types.files import write_text
from suite.figures import SUITE, Benchmark, Figure

MEASURED = Path(__file__).parent / "measured.json"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
MARK = "figures"


@dataclass(frozen=True)
class Run:
    """One benchmark, once."""

    machine: str
    figures: dict[str, float]
    seconds: float | None = None
    """Wall time; None where a section of the page tells it."""
    cpu_s: float | None = None
    """Of all its processes, which other work on the machine moves less."""
    peak_mb: int | None = None


Measured = dict[str, dict[str, Run]]
"""Form → benchmark → run."""


def read_measured(path: Path = MEASURED) -> Measured:
    if not path.exists():
        return {"quick": {}, "long": {}}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {form: {name: Run(**run) for name, run in runs.items()} for form, runs in found.items()}


def write_measured(measured: Measured, path: Path = MEASURED) -> None:
    order = {benchmark.name: number for number, benchmark in enumerate(SUITE)}
    rows = {form: {name: asdict(runs[name]) for name in sorted(runs, key=order.__getitem__)} for form, runs in measured.items()}
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def describe_machine() -> str:
    """Example: `2 CPU cores (AMD EPYC), Python 3.11.7, load 0.4`"""
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = " ".join((names or [platform.processor()])[0].split()[:2])
    return f"{os.cpu_count()} CPU cores ({name}), Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def figure_values(benchmark: Benchmark, found: Mapping[str, Any], *, is_long: bool) -> dict[str, float]:
    """The figures of the table out of what a script wrote.

    Raises:
        KeyError: the script did not write one of them.
    """
    values: dict[str, float] = {}
    for figure in benchmark.figures:
        if (figure.is_long_only and not is_long) or (figure.is_quick_only and is_long):
            continue
        value: Any = found
        for part in figure.key.split("/"):
            value = value[part]
        values[figure.key] = float(f"{value:.5g}")
    return values


def misses(measured: Measured) -> list[tuple[Benchmark, Figure, float]]:
    """Figures that miss their goal. The long form decides where there is one, and alone where the quick form asks less."""
    found = []
    for benchmark in SUITE:
        for figure in benchmark.figures:
            long = _value(measured, "long", benchmark, figure)
            quick = None if figure.quick else _value(measured, "quick", benchmark, figure)
            value = quick if long is None else long
            if figure.goal and value is not None and not figure.is_met(value):
                found.append((benchmark, figure, value))
    return found


def table(measured: Measured) -> str:
    """Figures with goals, what bounds those that miss them, and how the runs were made."""
    missed = misses(measured)
    lines = ["| figure | measured, `--quick` | long form | goal | against |", "|---|---|---|---|---|"]
    for benchmark in SUITE:
        for figure in benchmark.figures:
            quick, long = (_shown(_value(measured, form, benchmark, figure)) for form in ("quick", "long"))
            quick += f" ({figure.quick})" if figure.quick and quick != "–" else ""
            goal = figure.shown_goal + (": missed" if (benchmark, figure) in [(other, miss) for other, miss, _ in missed] else "")
            lines.append(f"| `{figure.key}`: {figure.meaning} | {quick} | {long} | {goal} | {figure.peer or '–'} |")
    lines += ["", *(f"- `{figure.key}` is {_shown(value)}, its goal {figure.shown_goal}. What bounds it: {figure.bound}." for _, figure, value in missed)]
    lines += ["", "| command | seconds | CPU seconds | peak MB | machine |", "|---|---|---|---|---|"]
    for form in ("quick", "long"):
        for benchmark in SUITE:
            run = measured[form].get(benchmark.name)
            if run is not None:
                flag = " --quick" if form == "quick" else ""
                note = f" ({benchmark.note})" if benchmark.note and form == "quick" else ""
                cost = " | ".join(_shown(value) for value in (run.seconds, run.cpu_s, run.peak_mb))
                lines.append(f"| `python benchmarks/{benchmark.script}{flag}`{note} | {cost} | {run.machine} |")
    return "\n".join(lines)


def _value(measured: Measured, form: str, benchmark: Benchmark, figure: Figure) -> float | None:
    run = measured[form].get(benchmark.name)
    return None if run is None else run.figures.get(figure.key)


def _shown(value: float | None) -> str:
    """Three digits, four near 1, whole numbers from a thousand on."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0.9 < abs(value) < 1.1 or 0 < abs(value) < 0.001:
        return f"{value:.5f}".rstrip("0").removesuffix(".")
    return f"{value:.3g}"
