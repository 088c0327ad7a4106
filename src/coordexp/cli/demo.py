"""`coordexp demo`: the whole path on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that it makes.")] = Path("output/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A few scenes and steps, to see that everything works; the scores say nothing.")] = False,
) -> None:
    """Import, validate, detect, fine-tune, detect again, compare: about ten minutes on a CPU."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.demo import run_demo

    run_demo(output, quick=quick, progress=console_progress())
