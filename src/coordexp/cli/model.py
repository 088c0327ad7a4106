"""`coordexp model`: checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build and score checkpoints.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Build and score checkpoints."""


@app.command("tiny")
def tiny(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the checkpoint.")],
    pretrain: Annotated[bool, typer.Option("--pretrain", help="Pretrain it on drawn shapes and handwritten digits (up to 90 minutes on a CPU).")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Build a tiny, real Qwen3-VL that runs on any machine; untrained unless --pretrain is given."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.tiny import run_tiny

    run_tiny(output, pretrain=pretrain, seed=seed, progress=console_progress())


@app.command("score-tiny")
def score_tiny(output: Annotated[Path, typer.Option("--output", "-o", help="Folder for data and results.")]) -> None:
    """Reproduce the held-out scores of the shipped checkpoint's model card."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.tiny_scores import run_tiny_score

    run_tiny_score(output, progress=console_progress())
