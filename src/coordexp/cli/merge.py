"""`coordexp merge`: the parts of an inference run as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    folder: Annotated[Path, typer.Argument(help="Folder of the run: its parts lie in shards/.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was merged before.")] = False,
) -> None:
    """Put the parts of an inference run together.

    Checks that every part is there, finished, unchanged and of the same run; leaves gt_vs_pred.jsonl (the bytes that one run would have written), summary.json
    and resolved_config.json.
    """
    from coordexp.cli.progress import console_progress
    from coordexp.recipes.infer import run_merge

    run_merge(folder, overwrite=overwrite, progress=console_progress())
