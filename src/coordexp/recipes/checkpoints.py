"""`coordexp model merge`, `expand-vocab` and `inspect`: checkpoints made from checkpoints, and what is in them."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from coordexp.models.merge import merge_adapter
from coordexp.types.files import ensure_output_folder
from coordexp.types.progress import NoProgress, Progress


def run_merge(adapter: Path, dst: Path, *, base: Path | None = None, dtype: str | None = None, progress: Progress | None = None) -> None:
    """Write the model with the adapter merged into it.

    Raises:
        UserError: adapter or base cannot be used, or `dst` cannot be written.
    """
    disable_progress_bar()
    progress = progress or NoProgress()
    ensure_output_folder(dst.parent)
    merged = merge_adapter(adapter, dst, base=base, dtype=dtype)
    progress.say(f"{adapter} on {merged.path}, merged as {str(merged.model.dtype).removeprefix('torch.')}: {dst}")
