"""`coordexp vis`: pictures of ground truth and predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def vis(
    pred_jsonl: Annotated[Path, typer.Option("--pred_jsonl", "--pred-jsonl", help="The artifact gt_vs_pred.jsonl.")],
    save_dir: Annotated[Path, typer.Option("--save_dir", "--save-dir", help="Folder for vis_0000.png, vis_0001.png, ….")],
    root_image_dir: Annotated[Path | None, typer.Option("--root_image_dir", "--root-image-dir", help="Folder that image paths count from.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Images that are drawn; 0: all.")] = 20,
) -> None:
    """Draw ground truth and predictions side by side."""
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.vis import run_vis

    run_vis(pred_jsonl, save_dir, root_image_dir=root_image_dir, limit=limit, progress=console_progress())
