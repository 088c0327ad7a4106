"""`coordexp model`: checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build, merge and score checkpoints.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _root() -> None:
    """Build, merge and score checkpoints."""


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


@app.command("merge")
def merge(
    adapter: Annotated[
        Path, typer.Option("--adapter", "--src", help="Folder of the adapter: checkpoint-<step> or final-adapter of a run, or of any LoRA made with PEFT.")
    ],
    dst: Annotated[Path, typer.Option("--dst", help="Folder of the merged checkpoint; replaced when it exists.")],
    base: Annotated[Path | None, typer.Option("--base", help="Folder of the model that the adapter was trained on, when it has moved.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; by default as in the training.")] = None,
) -> None:
    """Merge an adapter into its model: a plain checkpoint with the same answers that opens without this package."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.checkpoints import run_merge

    run_merge(adapter, dst, base=base, dtype=dtype, progress=console_progress())
