"""`coordexp eval export`: a run for FiftyOne, supervision and other tools that read COCO."""

from __future__ import annotations

from pathlib import Path

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.export import GROUND_TRUTH, PREDICTIONS, write_coco_pair
from coordexp.evaluation.ingest import PixelMode
from coordexp.pipeline.artifacts import check_writable
from coordexp.types.files import replace_owned
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.run_files import RunFiles


def run_export(run: Path, out_dir: Path, *, pixel_mode: PixelMode = "int", progress: Progress | None = None) -> None:
    """Evaluate `run` (its folder, or its `gt_vs_pred.jsonl`) and write both files to `out_dir`.

    Raises:
        UserError: the predictions cannot be read, or the folder cannot be written.
    """
    progress = progress or NoProgress()
    files = RunFiles.of(run)
    check_writable(out_dir)
    result = evaluate(files.predictions, settings=EvalSettings(pixel_mode=pixel_mode, with_coco=False, with_f1ish=False), progress=progress)
    with replace_owned(out_dir, is_owned=(GROUND_TRUTH, PREDICTIONS).__contains__) as new:
        write_coco_pair(result, new)
    progress.say(f"{len(result.data.gt)} ground truths and {len(result.data.pred)} predictions of {len(result.data.images)} images: {out_dir}")
