"""`coordexp report`: an HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from coordexp.types.errors import ConfigError

if TYPE_CHECKING:
    from coordexp.viz.thumbnails import ThumbnailMode

_THUMBNAILS = ("folder", "inline", "none")


def report(
    run: Annotated[Path, typer.Argument(help="Folder of an inference run, with gt_vs_pred.jsonl.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The HTML file; absent: report.html in the run's folder.")] = None,
    before: Annotated[Path | None, typer.Option("--before", help="An earlier inference run on the same data, to compare with.")] = None,
    training: Annotated[Path | None, typer.Option("--training", help="Folder of the training run, for its curves.")] = None,
    root_image_dir: Annotated[Path | None, typer.Option("--root_image_dir", "--root-image-dir", help="Folder that image paths count from.")] = None,
    max_images: Annotated[
        int | None, typer.Option("--max-images", min=0, help="Pictures inside the file, of the worst images; 0: of all. Absent: 60, or all of up to 150.")
    ] = None,
    thumbnails: Annotated[
        str, typer.Option("--thumbnails", help="Pictures of the other images: folder (beside the file) | inline (left out) | none (no pictures at all).")
    ] = "folder",
) -> None:
    """Write a report: metrics, curves, error types, per-class table, gallery of all images, training curves."""
    if thumbnails not in _THUMBNAILS:
        raise ConfigError(f"'{thumbnails}' is none of {', '.join(_THUMBNAILS)}", where="--thumbnails", fix="write --thumbnails folder")
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.report import run_report

    written = run_report(
        run,
        output=output,
        before=before,
        training=training,
        root_image_dir=root_image_dir,
        max_images=max_images,
        thumbnails=cast("ThumbnailMode", thumbnails),
        progress=console_progress(),
    )
    typer.echo(f"report: {written}")
