"""Does Stage-2 teach? Arms of training from one checkpoint at the plateau of Stage-1, at equal processor seconds, on dense scenes.

python benchmarks/stage2_gain.py [COMMAND] [--quick] [--json PATH] [--folder DIR] [--budget SECONDS] [--arms a,b] [--seeds 1,2] [--cpus 0,1]

Commands: prepare (data, starting checkpoint), curve (scores along its training), teacher (the starting checkpoint under teacher forcing, beside its own
answers), check (which arms the product takes), run (arms), fresh (five more seeds of the best arm of each stage), table; without one: prepare, teacher, run,
fresh, table. Everything that is finished is reused; a run that was stopped is repeated.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stage2_study.arms import ARMS, FRESH_SEEDS, LOOKS, Arm, find_arms
from stage2_study.prepare import prepare_data, prepare_start, score_curve
from stage2_study.runs import in_rounds, run_all, why_not
from stage2_study.study import Study
from stage2_study.tables import best_arm, exposure_lines, figures, markdown
from stage2_study.teacher import teacher_forced
from suite.command import benchmark_parser, write_figures
from suite.pages import write_between

COMMANDS = ("prepare", "curve", "teacher", "check", "run", "fresh", "table")
QUICK_ARMS = ("b_only",)


def main() -> None:
    parser = benchmark_parser(__doc__, quick="a few scenes and steps, to see that everything works: its scores say nothing")
    parser.add_argument("command", nargs="?", choices=COMMANDS)
    parser.add_argument("--folder", type=Path, default=Path("output/stage2_gain"), help="for everything")
    parser.add_argument("--budget", type=float, default=Study.budget_cpu_s, help="processor seconds of training of one run")
    parser.add_argument("--prepare-steps", type=int, default=Study.prepare_steps)
    parser.add_argument("--arms", help="names; all by default")
    parser.add_argument("--seeds", help="numbers; those of each arm by default")
    parser.add_argument("--cpus", default="0,1", help="processors to pin runs to, one run on each")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--page", type=Path, help="table: write it into this page")
    args = parser.parse_args()
    study = Study(
        args.folder.absolute(),
        budget_cpu_s=args.budget,
        prepare_steps=args.prepare_steps,
        cpus=tuple(map(int, args.cpus.split(","))),
        niceness=args.nice,
    )
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else None
    if args.quick:
        with tempfile.TemporaryDirectory() as name:
            quick(Path(name), args.json)
        return
    for command in [args.command] if args.command else ["prepare", "teacher", "run", "fresh", "table"]:
        execute(command, study, find_arms(args.arms), seeds, page=args.page)
    write_figures(figures(study), args.json)


def execute(command: str, study: Study, arms: Sequence[Arm], seeds: Sequence[int] | None, *, page: Path | None = None) -> None:
    if command == "prepare":
        prepare_data(study)
        print(json.dumps(prepare_start(study), indent=2))
    elif command == "curve":
        for step, scores in score_curve(study).items():
            print(step, " ".join(f"{key} {value:.4f}" for key, value in scores.items() if isinstance(value, float)))
    elif command == "teacher":
        print(json.dumps(teacher_forced(study, study.start), indent=2))
        print("\n".join(exposure_lines(study)))
    elif command == "check":
        for arm in arms:
            print(f"{arm.name:14} {why_not(study, arm) or 'ok'}")
    elif command == "run":
        run_all(study, in_rounds(runnable(study, arms), seeds))
    elif command == "fresh":
        best = [arm for stage in ("stage1", "stage2") if (arm := best_arm(study, stage)) is not None]
        run_all(study, in_rounds(best, FRESH_SEEDS))
    else:
        table = markdown(study)
        print(table)
        if page is not None:
            write_between(page, "stage2_gain", table)


def runnable(study: Study, arms: Sequence[Arm]) -> list[Arm]:
    """The arms that the product takes; the others are named."""
    refused = {arm.name: reason for arm in arms if (reason := why_not(study, arm)) is not None}
    for name, reason in refused.items():
        print(f"{name} is left out: {reason}")
    return [arm for arm in arms if arm.name not in refused]


def quick(folder: Path, json_path: Path | None) -> None:
    """The whole way with a few scenes and one short run for each stage."""
    study = Study(folder, budget_cpu_s=1.0, prepare_steps=2, stable_steps=0, decay_steps=1, num_scenes={"train": 16, "val": 2}, max_new_tokens=32)
    arms = [replace(arm, seeds=(1,)) for arm in (*ARMS, *LOOKS) if arm.name in QUICK_ARMS]
    execute("prepare", study, arms, None)
    execute("run", study, arms, None)
    execute("table", study, arms, None)
    print("quick form: a few scenes and steps, its scores say nothing")
    write_figures(figures(study), json_path)


if __name__ == "__main__":
    main()
