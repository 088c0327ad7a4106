"""How long `coordexp --help` takes, as seconds and as a ratio to a bare interpreter in the same run.

python benchmarks/cli_startup.py [--quick] [--json PATH]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from suite.command import benchmark_parser, show_figures, write_figures


def median_seconds(command: list[str], *, repeats: int) -> float:
    """Median wall seconds of `command` over `repeats` runs, after one warm-up that fills the file cache."""
    subprocess.run(command, capture_output=True, check=True)
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = benchmark_parser(__doc__, quick="5 runs instead of 25")
    args = parser.parse_args()
    repeats = 5 if args.quick else 25
    bare = median_seconds([sys.executable, "-c", "pass"], repeats=repeats)
    help_seconds = median_seconds([sys.executable, "-m", "coordexp", "--help"], repeats=repeats)
    figures = {"help_seconds": round(help_seconds, 4), "help_over_python_startup": round(help_seconds / bare, 2)}
    show_figures("cli_startup", figures)
    write_figures(figures, args.json)


if __name__ == "__main__":
    main()
