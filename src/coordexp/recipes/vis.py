"""`coordexp vis`: pictures from predictions alone. No model."""

from __future__ import annotations

import re
from pathlib import Path

from coordexp.evaluation.ingest import ingest_file
from coordexp.types.files import replace_owned
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.images import choose_image_root
from coordexp.viz.pictures import PicturesWritten, write_pictures
from coordexp.viz.run_files import RunFiles

_PICTURE = re.compile(r"vis_\d{4,}\.png")


def run_vis(pred_jsonl: Path, save_dir: Path, *, root_image_dir: Path | None = None, limit: int = 20, progress: Progress | None = None) -> PicturesWritten:
    """Draw the first `limit` images (0: all) in file order as `vis_0000.png`, …; pictures of an earlier run in the folder are replaced.

    Raises:
        UserError: the predictions or all images cannot be read, or the folder cannot be written.
    """
    progress = progress or NoProgress()
    run = RunFiles.of(pred_jsonl)
    data = ingest_file(run.predictions, progress=progress)
    root = choose_image_root(run.predictions, asked=root_image_dir, recorded=run.image_root)
    images = range(len(data.images))[: limit or None]
    with replace_owned(save_dir, is_owned=is_picture) as new:
        written = write_pictures(data, images, root=root, folder=new, progress=progress)
    for problem in written.unreadable:
        progress.say(f"warning: {problem}")
    progress.say(f"{len(written.files)} pictures: {save_dir}")
    return PicturesWritten(tuple(save_dir / path.name for path in written.files), written.unreadable)


def is_picture(name: str) -> bool:
    """Whether `coordexp vis` writes a file of this name."""
    return _PICTURE.fullmatch(name) is not None
