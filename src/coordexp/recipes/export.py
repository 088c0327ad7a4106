"""`coordexp eval export`: a run for FiftyOne, supervision and other tools that read COCO."""

from __future__ import annotations

from pathlib import Path

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.export import GROUND_TRUTH, PREDICTIONS, write_coco_pair
from coordexp.evaluation.fiftyone_export import write_fiftyone
from coordexp.evaluation.ingest import PixelMode
from coordexp.pipeline.artifacts import check_writable
from coordexp.types.errors import BackendError
from coordexp.types.files import replace_owned
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.images import choose_image_root
from coordexp.viz.run_files import RunFiles


def run_export(
    run: Path,
    out_dir: Path,
    *,
    pixel_mode: PixelMode = "int",
    fiftyone: str | None = None,
    root_image_dir: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Evaluate `run` (its folder, or its `gt_vs_pred.jsonl`) and write both files to `out_dir`.

    Args:
        run: an inference run.
        out_dir: folder of both files.
        pixel_mode: whole pixels, as COCO evaluation has them, or exact ones.
        fiftyone: name of a FiftyOne data set to make, too.
        root_image_dir: folder that image paths count from; by default what the run recorded.
        progress: shows the long loops.

    Raises:
        UserError: the predictions cannot be read, the folder cannot be written, or FiftyOne is missing; both files are there by then.
    """
    progress = progress or NoProgress()
    files = RunFiles.of(run)
    check_writable(out_dir)
    result = evaluate(files.predictions, settings=EvalSettings(pixel_mode=pixel_mode, with_coco=False, with_f1ish=False), progress=progress)
    with replace_owned(out_dir, is_owned=(GROUND_TRUTH, PREDICTIONS).__contains__) as new:
        write_coco_pair(result, new)
    progress.say(f"{len(result.data.gt)} ground truths and {len(result.data.pred)} predictions of {len(result.data.images)} images: {out_dir}")
    if fiftyone is None:
        return
    root = choose_image_root(files.predictions, asked=root_image_dir, recorded=files.image_root)
    try:
        num_samples = write_fiftyone(result, image_root=root, name=fiftyone)
    except BackendError as error:
        raise BackendError(f"{error.what}; the two COCO files are written", where=error.where, fix=error.fix) from error
    progress.say(f"FiftyOne data set {fiftyone}: {num_samples} samples; look at it with: fiftyone app launch {fiftyone}")
