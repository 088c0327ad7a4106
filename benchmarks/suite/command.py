"""The frame of every benchmark: its two flags, its figures on the screen with their goals, and in a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.figures import goals_of


def benchmark_parser(doc: str | None, *, quick: str) -> argparse.ArgumentParser:
    """With `--quick`, which `quick` explains, and `--json`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser


def show_figures(name: str, figures: Mapping[str, Any]) -> None:
    """Each number of benchmark `name` on a line of its own; None was not measured."""
    goals = goals_of(name)
    for key, value in figures.items():
        if value is None or isinstance(value, int | float):
            print(f"{key:44} {'not measured' if value is None else f'{value:<12.5g}'} {goals.get(key, '')}".rstrip())


def write_figures(figures: Mapping[str, Any], path: Path | None) -> None:
    """As JSON, where a path was given."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
