"""The end of full_journey.sh: scores after each stage, with their 95 % intervals, how long each step took, and whether Stage-2 helped.

python examples/journey_table.py output/journey
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SCORES = {"f1_det@0.50": "F1@0.5", "f1_det@0.75": "F1@0.75", "f1_det_miou": "F1@mIoU", "bbox_AP": "AP"}


def scores_of(run: Path) -> list[str]:
    """The scores of a run as text."""
    found: dict[str, Any] = json.loads((run / "eval" / "metrics.json").read_text(encoding="utf-8"))
    intervals = found["intervals"]
    return [f"{found['metrics'][key]:.3f} [{intervals[key][0]:.3f}, {intervals[key][1]:.3f}]" for key in SCORES]


def differences(comparison: Path) -> list[str]:
    """Of the second run over the first, images resampled in pairs."""
    found: dict[str, Any] = json.loads(comparison.read_text(encoding="utf-8"))["metrics"]
    return [f"{found[key]['delta']:+.3f} [{found[key]['interval'][0]:+.3f}, {found[key]['interval'][1]:+.3f}]" for key in SCORES]


def main(folder: Path) -> None:
    console = Console(width=120)
    comparison = folder / "runs" / "stage2" / "compare_with_stage1"
    table = Table("after", *SCORES.values(), title="Held-out pictures, 95 % intervals")
    for name in ("stage1", "stage2"):
        table.add_row(name, *scores_of(folder / "runs" / name))
    table.add_row("what Stage-2 brought", *differences(comparison / "compare.json"))
    console.print(table)
    steps = sorted((folder / ".steps").iterdir(), key=lambda path: path.stat().st_mtime)
    seconds = {path.name: int(path.read_text()) for path in steps}
    console.print("seconds: " + ", ".join(f"{name} {spent}" for name, spent in seconds.items()) + f"; together {sum(seconds.values())}")
    console.print(f"report: {folder / 'report.html'}\ncomparison: {comparison / 'compare.html'}\nCOCO files: {folder / 'coco'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
