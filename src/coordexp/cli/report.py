"""`coordexp report`: an HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from coordexp.types.errors import ConfigError

if TYPE_CHECKING:
    from coordexp.viz.thumbnails import ThumbnailMode

_CHOICES = {"--thumbnails": ("folder", "inline", "none"), "--pixel-mode": ("int", "exact"), "--label-match": ("exact", "semantic")}


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
    pixel_mode: Annotated[str | None, typer.Option("--pixel-mode", "--pixel_mode", help="int | exact")] = None,
    label_match: Annotated[str | None, typer.Option("--label-match", "--label_match", help="exact | semantic")] = None,
    semantic_model: Annotated[str | None, typer.Option("--semantic-model", "--semantic_model", help="Text encoder: folder or hub id.")] = None,
) -> None:
    """Write a report: metrics, curves, error types, per-class table, gallery of all images, training curves.

    Both runs are measured under the rules of the run's own evaluation (the folder eval/ beside its predictions), if there is one; flags win.
    """
    for flag, value in (("--thumbnails", thumbnails), ("--pixel-mode", pixel_mode), ("--label-match", label_match)):
        if value is not None and value not in _CHOICES[flag]:
            raise ConfigError(f"'{value}' is none of {', '.join(_CHOICES[flag])}", where=flag, fix=f"write {flag} {_CHOICES[flag][0]}")
    if semantic_model == "":
        raise ConfigError("is empty", where="--semantic-model", fix="name a folder or a hub id")
    rules = {"pixel_mode": pixel_mode, "label_match": label_match, "semantic_model": semantic_model}
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
        rules={name: value for name, value in rules.items() if value is not None},
        progress=console_progress(),
    )
    typer.echo(f"report: {written}")
