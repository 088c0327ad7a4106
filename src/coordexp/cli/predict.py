"""`coordexp predict`: boxes for a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coordexp.cli.flags import read_path

SOME_FAILED = 3
"""Exit code: pictures could not be read, the others are done."""


def predict(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER…", help="Pictures, and folders that are searched for them.", show_default=False)],
    model: Annotated[str, typer.Option("--model", help="Folder of a checkpoint, or 'tiny': that of the package (shapes and digits).", show_default=False)],
    labels: Annotated[str | None, typer.Option("--labels", help="Names to look for, separated by commas; absent: everything.")] = None,
    form: Annotated[Literal["jsonl", "coco", "yolo", "supervision"], typer.Option("--format", help="jsonl | coco | yolo | supervision (CSV)")] = "jsonl",
    out: Annotated[
        Path | None, typer.Option("--out", parser=read_path, metavar="<path>", help="File, or folder of yolo; absent: lines on the standard output.")
    ] = None,
    save_vis: Annotated[
        Path | None, typer.Option("--save-vis", "--save_vis", parser=read_path, metavar="<path>", help="Folder for the pictures with boxes.")
    ] = None,
    min_score: Annotated[float, typer.Option("--min-score", "--min_score", min=0.0, max=1.0, help="Leave out what the model is less sure of.")] = 0.0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda:0, … ; auto: the first GPU, or the CPU.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", "--batch_size", min=1, help="Pictures that are generated together.")] = 8,
    backend: Annotated[Literal["hf"], typer.Option("--backend", help="hf: in this process; with vLLM use 'coordexp infer'.")] = "hf",
    preset: Annotated[
        str | None, typer.Option("--preset", help="Sizes of the training data, as rescale_32_768; absent: the pixel limits of the checkpoint.")
    ] = None,
    mode: Annotated[
        Literal["coord", "text", "native"], typer.Option("--mode", help="coord | text | native (stock Qwen3-VL): what the model writes.")
    ] = "coord",
    coord_decode: Annotated[
        Literal["argmax", "expectation"], typer.Option("--coord-decode", "--coord_decode", help="expectation: coordinates between bins.")
    ] = "argmax",
    constrain: Annotated[
        Literal["off", "json"], typer.Option("--constrain", help="json: nothing but complete answers, and with --labels no other name.")
    ] = "off",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", parser=read_path, metavar="<path>", help="What 'coordexp calibrate' wrote: scores become probabilities.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "--max_new_tokens", min=1, help="Longest answer.")] = 1024,
) -> None:
    """Detect objects on pictures; boxes count in each picture's own pixels.

    A picture that cannot be read is a line with its error, and the exit code 3; the others are done.
    """
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.predict import run_predict

    names = None if labels is None else [name.strip() for name in labels.split(",") if name.strip()]
    settings = {
        "model": model,
        "labels": names or None,
        "device": device,
        "batch_size": batch_size,
        "preset": preset,
        "mode": mode,
        "coord_decode": coord_decode,
        "constrain": constrain,
        "calibration": calibration,
        "max_new_tokens": max_new_tokens,
    }
    failed = run_predict(inputs, form=form, out=out, save_vis=save_vis, min_score=min_score, detector=settings, progress=console_progress())
    if failed:
        raise typer.Exit(SOME_FAILED)
