"""`coordexp report`: one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Folder of an inference run, with gt_vs_pred.jsonl.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The HTML file; absent: report.html in the run's folder.")] = None,
    before: Annotated[Path | None, typer.Option("--before", help="An earlier inference run on the same data, to compare with.")] = None,
    training: Annotated[Path | None, typer.Option("--training", help="Folder of the training run, for its curves.")] = None,
    root_image_dir: Annotated[Path | None, typer.Option("--root_image_dir", "--root-image-dir", help="Folder that image paths count from.")] = None,
    max_images: Annotated[int, typer.Option("--max-images", min=0, help="Images in the gallery, the worst first; 0: all.")] = 60,
) -> None:
    """Write a single-file report: run facts, metrics, per-class table, gallery, training curves."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.report import run_report

    written = run_report(
        run, output=output, before=before, training=training, root_image_dir=root_image_dir, max_images=max_images, progress=console_progress()
    )
    typer.echo(f"report: {written}")
