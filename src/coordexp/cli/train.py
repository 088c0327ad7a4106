"""`coordexp train`: one entry for every trainer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Option("--config", help="Training file (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Settings that win over the file, such as training.max_steps=5.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Open and check everything, print what would be trained on what in which steps, and stop: nothing is written.")
    ] = False,
) -> None:
    """Train a checkpoint; every run gets a new folder below training.output_dir."""
    from coordexp.cli.progress import console_progress
    from coordexp.config.loading import load_config
    from coordexp.config.train import TrainConfig

    loaded = load_config(config, TrainConfig, overrides or [])
    if dry_run:
        from coordexp.recipes.stage1_plan import plan_stage1

        typer.echo(plan_stage1(loaded.config, world_size=int(os.environ.get("WORLD_SIZE", "1")), progress=console_progress()))
        return
    from coordexp.recipes.stage1 import run_stage1

    folder = run_stage1(loaded, argv=tuple(sys.argv), progress=console_progress())
    if os.environ.get("RANK", "0") == "0":  # one line for a script to read, also when torchrun started several processes
        typer.echo(f"run folder: {folder}")
