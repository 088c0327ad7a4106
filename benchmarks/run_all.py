"""Every benchmark, one after the other, in its quick form; what was measured goes into `suite/measured.json` and the table of docs/benchmarks.md.

The exit code is 1 when a benchmark does not run or leaves a figure out. A figure that misses its goal is no failure: the table says what bounds it.

    python benchmarks/run_all.py [--only NAME ...] [--long] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from suite.figures import SUITE, Benchmark
from suite.measured import MARK, MEASURED, PAGE, Run, describe_machine, figure_values, misses, read_measured, table, write_measured
from suite.pages import write_between

FOLDER = Path(__file__).resolve().parent
QUICK_S = 50
"""What the quick form should take at most."""


def measure(benchmark: Benchmark, *, is_long: bool, folder: Path = FOLDER) -> Run:
    """One script in a process of its own.

    Raises:
        SystemExit: it failed, or did not write a figure of the table.
    """
    machine, start = describe_machine(), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "figures.json"
        process = subprocess.Popen([sys.executable, str(folder / benchmark.script), *(() if is_long else ("--quick",)), "--json", str(path)])
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"error: {benchmark.script} ended with exit code {process.returncode}")
        found = json.loads(path.read_text(encoding="utf-8"))
    try:
        values = figure_values(benchmark, found, is_long=is_long)
    except KeyError as error:
        raise SystemExit(f"error: {benchmark.script}: its JSON has no {error}") from error
    return Run(machine, values, round(time.perf_counter() - start, 1), round(usage.ru_utime + usage.ru_stime, 1), usage.ru_maxrss // 1024)


def run_all(benchmarks: list[Benchmark], *, is_long: bool, measured_path: Path = MEASURED, page: Path = PAGE, folder: Path = FOLDER) -> int:
    """Measure in order; each is written down when it is done. Returns how many failed."""
    measured, form, failed = read_measured(measured_path), "long" if is_long else "quick", []
    for benchmark in benchmarks:
        print(f"== {benchmark.name}", flush=True)
        try:
            run = measure(benchmark, is_long=is_long, folder=folder)
        except SystemExit as error:
            print(error, flush=True)
            failed.append(benchmark.name)
            continue
        is_slow = not is_long and run.seconds > QUICK_S
        print(f"== {benchmark.name}: {run.seconds:.1f} s, {run.cpu_s:.1f} CPU s{', more than its quick form should take' if is_slow else ''}", flush=True)
        measured[form][benchmark.name] = run
        write_measured(measured, measured_path)
        write_between(page, MARK, table(measured))
    for _, figure, value in misses(measured):
        print(f"missed: {figure.key} {value:g}, goal {figure.shown_goal}")
    if failed:
        print(f"FAILED: {', '.join(failed)}")
    return len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[benchmark.name for benchmark in SUITE], help="these alone")
    parser.add_argument("--long", action="store_true", help="the long forms, which take hours together")
    parser.add_argument("--table", action="store_true", help="write the table again, measure nothing")
    args = parser.parse_args()
    if args.table:
        write_between(PAGE, MARK, table(read_measured()))
        return 0
    start = time.perf_counter()
    failed = run_all([benchmark for benchmark in SUITE if args.only is None or benchmark.name in args.only], is_long=args.long)
    print(f"{time.perf_counter() - start:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
