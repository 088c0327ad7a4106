"""What the runs found, as a table for `docs/benchmarks.md` and as figures by key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stage2_study.arms import ARMS, FRESH_SEEDS, LOOKS, MAIN_SEEDS, Arm, Stage
from stage2_study.exposure import exposure, exposure_table
from stage2_study.runs import finished
from stage2_study.scores import F1_KEYS, HEADLINE, Difference, difference, mean_of
from stage2_study.study import Study, read_json

_RATES = ("objects_per_image", "truncated", "duplicates", "malformed")
_COLUMNS = (
    *("arm", "seeds", "steps", "thousand tokens", "CPU s", "wall s", "F1@0.5", "F1@0.75", "F1@0.95", "F1@mIoU", "mean IoU"),
    *("objects", "cut", "twice", "broken", "over start", "over best Stage-1"),
)
Runs = Sequence[dict[str, Any]]


def results_of(study: Study, arm: Arm, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Finished runs of an arm."""
    return [result for seed in seeds if (result := finished(study, arm, seed)) is not None]


def best_arm(study: Study, stage: Stage) -> Arm | None:
    """By the mean over the main seeds; only arms that have them all."""
    runs = [(arm, results_of(study, arm, MAIN_SEEDS)) for arm in ARMS if arm.stage == stage]
    complete = [(mean_of(found, HEADLINE), arm) for arm, found in runs if len(found) == len(MAIN_SEEDS)]
    return max(complete, key=lambda pair: pair[0])[1] if complete else None


def between(a: Runs, b: Runs, *, key: str = HEADLINE) -> Difference:
    """b - a."""
    return difference([Path(run["eval"]["predictions"]) for run in a], [Path(run["eval"]["predictions"]) for run in b], key=key)


def markdown(study: Study) -> str:
    """The table of all arms and looks that have a result, and the claim on fresh seeds."""
    start = read_json(study.folder / "start.json")
    best = best_arm(study, "stage1")
    reference = results_of(study, best, MAIN_SEEDS) if best is not None else []
    lines = [f"| {' | '.join(_COLUMNS)} |", "|" + "---|" * len(_COLUMNS), _row("start", "–", [start], [start], [])]
    for arm in (*ARMS, *LOOKS):
        runs = results_of(study, arm, arm.seeds)
        if runs:
            against = reference if best is None or arm.name != best.name else []
            lines.append(_row(f"`{arm.name}` {arm.what}", str(len(runs)), runs, [start], against))
    return "\n".join([*lines, "", *claim(study), "", *exposure_lines(study)])


def exposure_lines(study: Study) -> list[str]:
    """The starting checkpoint beside itself under teacher forcing; empty before that was measured."""
    own, forced = (study.folder / "scores" / name / "gt_vs_pred.jsonl" for name in ("start", "teacher-start"))
    return exposure_table(exposure(own, forced)) if forced.exists() else []


def _row(name: str, seeds: str, runs: Runs, start: Runs, reference: Runs) -> str:
    cost = _cost(runs) if "train" in runs[0] else ["–"] * 4
    scores = [f"{mean_of(runs, key):.3f}" for key in F1_KEYS]
    rates = [f"{mean_of(runs, key):.1f}" if key == "objects_per_image" else f"{100 * mean_of(runs, key):.1f} %" for key in _RATES]
    over_start = "–" if runs is start or "train" not in runs[0] else str(between(start, runs))
    over_best = str(between(reference, runs)) if reference else "–"
    return f"| {' | '.join([name, seeds, *cost, *scores, *rates, over_start, over_best])} |"


def _cost(runs: Runs) -> list[str]:
    """Steps, tokens of training batches + generated ones, seconds: means over seeds."""
    keys = ("steps", "trained_tokens", "generated_tokens", "cpu_s", "wall_s")
    steps, trained, generated, cpu, wall = (sum(run["train"][key] for run in runs) / len(runs) for key in keys)
    return [f"{steps:.0f}", f"{trained / 1000:.0f} + {generated / 1000:.0f}", f"{cpu:.0f}", f"{wall:.0f}"]


def fresh_difference(study: Study, key: str) -> Difference | None:
    """Best Stage-2 arm over best Stage-1 arm on seeds that did not choose them; None until both have runs there."""
    arms = [best_arm(study, stage) for stage in ("stage1", "stage2")]
    first, second = (results_of(study, arm, FRESH_SEEDS) if arm is not None else [] for arm in arms)
    return between(first, second, key=key) if first and second else None


def claim(study: Study) -> list[str]:
    """`fresh_difference` in words; empty until there is one."""
    arms = [best_arm(study, stage) for stage in ("stage1", "stage2")]
    found = {key: fresh_difference(study, key) for key in F1_KEYS}
    if arms[0] is None or arms[1] is None or None in found.values():
        return []
    counts = [len(results_of(study, arm, FRESH_SEEDS)) for arm in (arms[1], arms[0]) if arm is not None]
    words = "; ".join(f"{key} {difference}" for key, difference in found.items())
    return [f"`{arms[1].name}` over `{arms[0].name}` on {counts[0]} and {counts[1]} seeds that chose neither, in points: {words}."]


def figures(study: Study) -> dict[str, Any]:
    """By key, for `--json`."""
    start = read_json(study.folder / "start.json")
    found: dict[str, Any] = {"start": start["eval"], "budget_cpu_s": study.budget_cpu_s}
    for arm in (*ARMS, *LOOKS):
        runs = results_of(study, arm, arm.seeds)
        if runs:
            over_start = between([start], runs)
            train = {key: sum(run["train"][key] for run in runs) / len(runs) for key in runs[0]["train"]}
            scores = {key: mean_of(runs, key) for key in (*F1_KEYS, *_RATES)}
            found[arm.name] = {"seeds": len(runs), **train, **scores, "over_start": [over_start.delta, over_start.low, over_start.high]}
    found["claim"] = claim(study)
    if (fresh := fresh_difference(study, HEADLINE)) is not None:
        found["points_over_best_stage1"] = 100 * fresh.delta
    return found
