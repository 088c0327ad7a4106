"""`coordexp eval export RUN`: ground truth and predictions as two COCO data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coordexp.cli.flags import read_path


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an inference run, or its gt_vs_pred.jsonl.", show_default=False)],
    out_dir: Annotated[Path, typer.Option("--out_dir", "--out-dir", parser=read_path, metavar="<path>", help="Folder for the two files.")],
    fiftyone: Annotated[str | None, typer.Option("--fiftyone", help="Make a FiftyOne data set of this name, too.")] = None,
    root_image_dir: Annotated[
        Path | None, typer.Option("--root_image_dir", "--root-image-dir", parser=read_path, metavar="<path>", help="Folder of the images, for FiftyOne.")
    ] = None,
    pixel_mode: Annotated[Literal["int", "exact"], typer.Option("--pixel-mode", "--pixel_mode", help="int | exact")] = "int",
) -> None:
    """Write ground_truth.json and predictions.json: COCO data sets with scores, and with what f1_det made of each object. FiftyOne imports both."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.export import run_export

    run_export(run, out_dir, pixel_mode=pixel_mode, fiftyone=fiftyone, root_image_dir=root_image_dir, progress=console_progress())
