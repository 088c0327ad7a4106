"""`coordexp eval compare A B`: what changed between two runs on the same images, and whether chance alone would do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordexp.cli.flags import overrides_of

if TYPE_CHECKING:
    pass


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Earlier run: its folder, its gt_vs_pred.jsonl, or the folder of its evaluation.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Later run, on the same images.", show_default=False)],
    out_dir: Annotated[
        Path | None, typer.Option("--out_dir", "--out-dir", help="Folder for compare.json and compare.html; absent: beside the predictions of B.")
    ] = None,
    bootstrap: Annotated[int | None, typer.Option("--bootstrap", help="Resamples for 95 % intervals; 0: none. 1000 when absent.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the resamples; 0 when absent.")] = None,
    ap: Annotated[bool, typer.Option("--ap/--no-ap", help="COCO AP too, by far the longest part.")] = True,
    pixel_mode: Annotated[str | None, typer.Option("--pixel-mode", "--pixel_mode", help="int | exact")] = None,
    score_mode: Annotated[str | None, typer.Option("--score-mode", "--score_mode", help="auto | model | constant")] = None,
    label_match: Annotated[str | None, typer.Option("--label-match", "--label_match", help="exact | semantic")] = None,
    semantic_model: Annotated[str | None, typer.Option("--semantic-model", "--semantic_model")] = None,
    semantic_threshold: Annotated[float | None, typer.Option("--semantic-threshold", "--semantic_threshold")] = None,
    root_image_dir: Annotated[Path | None, typer.Option("--root_image_dir", "--root-image-dir", help="Folder that image paths count from.")] = None,
    max_images: Annotated[int | None, typer.Option("--max-images", "--max_images", help="Changed images in the page; 0: none. 60 when absent.")] = None,
) -> None:
    """Compare two runs on the same images: paired bootstrap of the differences, by class, size and number of objects, and the images that changed.

    Every difference is B - A. The folder of an evaluation is compared under the rules it was made with; flags win.
    """
    from coordexp.cli.progress import console_progress
    from coordexp.config.compare import CompareConfig
    from coordexp.config.loading import load_config

    flags = overrides_of(
        {
            "a": ("A", a),
            "b": ("B", b),
            "out_dir": ("--out_dir", out_dir),
            "bootstrap": ("--bootstrap", bootstrap),
            "bootstrap_seed": ("--seed", seed),
            "metrics": ("--no-ap", None if ap else "f1ish"),
            "pixel_mode": ("--pixel-mode", pixel_mode),
            "score_mode": ("--score-mode", score_mode),
            "label_match": ("--label-match", label_match),
            "semantic_model": ("--semantic-model", semantic_model),
            "semantic_threshold": ("--semantic-threshold", semantic_threshold),
            "root_image_dir": ("--root_image_dir", root_image_dir),
            "max_images": ("--max-images", max_images),
        }
    )
    loaded = load_config(None, CompareConfig, flags)
    from coordexp.cli.comparison_table import print_comparison
    from coordexp.recipes.compare import run_compare

    comparison, folder = run_compare(loaded.config, progress=console_progress())
    print_comparison(comparison)
    typer.echo(f"comparison: {folder}")
