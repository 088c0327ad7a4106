"""`coordexp calibrate`: scores that mean what they say. Needs no model and no torch."""

from __future__ import annotations

from pathlib import Path

from coordexp.evaluation.ingest import PixelMode
from coordexp.evaluation.score_calibration import Method, ScoreCalibration
from coordexp.pipeline.artifacts import check_writable
from coordexp.pipeline.calibrate import apply_calibration, fit_calibration
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.run_files import RunFiles


def run_calibrate(
    predictions: Path, out: Path, *, method: Method = "isotonic", iou: float = 0.5, pixel_mode: PixelMode = "int", progress: Progress | None = None
) -> ScoreCalibration:
    """Fit a curve on a run (its folder, or its `gt_vs_pred.jsonl`) and write it to `out`.

    Raises:
        UserError: the predictions cannot be used, scikit-learn is not installed, or the file cannot be written.
    """
    progress = progress or NoProgress()
    files = RunFiles.of(predictions)
    check_writable(out.parent)
    found = fit_calibration(files.predictions, method=method, iou=iou, pixel_mode=pixel_mode, probabilities=files.probabilities, progress=progress)
    found.write(out)
    fitted = found.fitted_on
    progress.say(
        f"{found.method} on {fitted.num_pred} predictions of {fitted.num_images} images, {fitted.num_right} right at IoU {fitted.iou:g}: "
        f"ECE {found.before.ece:.3f} before, {found.after.ece:.3f} after ({found.folds}-fold cross-validation): {out}"
    )
    return found


def run_apply_calibration(calibration: Path, predictions: Path, out: Path, *, progress: Progress | None = None) -> None:
    """Write the predictions of a run with calibrated scores to `out`.

    Raises:
        UserError: a file cannot be read or written, or the scores are not raw ones of the kind that the calibration was fitted on.
    """
    files, fitted = RunFiles.of(predictions), ScoreCalibration.read(calibration)
    fitted.fitted_on.check_scores(files.probabilities, where=str(calibration))
    num_pred = apply_calibration(fitted, files.predictions, out)
    (progress or NoProgress()).say(f"{num_pred} scores calibrated: {out}")
