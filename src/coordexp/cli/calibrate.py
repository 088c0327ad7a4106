"""`coordexp calibrate`: from confidences to probabilities. Needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coordexp.cli.flags import read_path
from coordexp.types.errors import ConfigError

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
    subcommand_metavar="[COMMAND]",
    short_help="Make probabilities of scores: fit, apply.",
)
"""Fits by itself; `apply` uses what was fitted."""


@app.callback()
def calibrate(
    ctx: typer.Context,
    pred_jsonl: Annotated[
        Path | None, typer.Option("--pred_jsonl", "--pred-jsonl", parser=read_path, metavar="<path>", help="gt_vs_pred.jsonl of a run on validation data.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", parser=read_path, metavar="<path>", help="Where the curve goes (JSON).")] = None,
    method: Annotated[
        Literal["isotonic", "platt"], typer.Option("--method", help="isotonic: from the score, keeps the ranking; platt: from its two parts, ranks anew.")
    ] = "isotonic",
    iou: Annotated[float, typer.Option("--iou", help="From which IoU on a matched prediction is right; at least 0.5.")] = 0.5,
    pixel_mode: Annotated[Literal["int", "exact"], typer.Option("--pixel-mode", "--pixel_mode", help="int | exact")] = "int",
) -> None:
    """Fit a curve from the confidence of a prediction to the probability that it is right, on data with ground truth.

    Use it with 'coordexp calibrate apply', or as infer.calibration of an inference run. Fitting needs scikit-learn, applying does not.
    """
    if ctx.invoked_subcommand is not None:
        return
    if pred_jsonl is None or out is None:
        raise ConfigError("--pred_jsonl and --out are required", where="coordexp calibrate", fix="see 'coordexp calibrate --help'")
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.calibrate import run_calibrate

    run_calibrate(pred_jsonl, out, method=method, iou=iou, pixel_mode=pixel_mode, progress=console_progress())


@app.command("apply", short_help="Write predictions with calibrated scores.")
def apply(
    calibration: Annotated[Path, typer.Option("--calibration", parser=read_path, metavar="<path>", help="What 'coordexp calibrate' wrote.")],
    pred_jsonl: Annotated[Path, typer.Option("--pred_jsonl", "--pred-jsonl", parser=read_path, metavar="<path>", help="gt_vs_pred.jsonl with raw scores.")],
    out: Annotated[Path, typer.Option("--out", parser=read_path, metavar="<path>", help="The file with calibrated scores.")],
) -> None:
    """Write the same lines with probabilities as scores; score_parts stay, score_source becomes 'calibrated'."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.calibrate import run_apply_calibration

    run_apply_calibration(calibration, pred_jsonl, out, progress=console_progress())
