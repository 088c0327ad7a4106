"""`coordexp report`: evaluate a run, and write what it looks like into one HTML file."""

from __future__ import annotations

from pathlib import Path

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.types.files import write_text
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.gallery import build_cards, rank_images
from coordexp.viz.images import choose_image_root
from coordexp.viz.report import ReportRun, check_same_images, render_report
from coordexp.viz.run_files import RunFiles
from coordexp.viz.training_log import draw_curves, read_log


def run_report(
    run: Path,
    *,
    output: Path | None = None,
    before: Path | None = None,
    training: Path | None = None,
    root_image_dir: Path | None = None,
    max_images: int = 60,
    title: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the report of an inference run (its folder, or its gt_vs_pred.jsonl) and return its path.

    Args:
        run: the run's folder, or the file.
        output: the HTML file; None: `report.html` beside the predictions.
        before: an earlier run on the same images.
        training: folder of the training run that lies between, for its curves.
        root_image_dir: folder that image paths count from; None: as the run recorded it.
        max_images: images in the gallery, the worst first; 0: all.
        title: heading; None: the name of the run's folder.
        progress: shows what goes on.

    Raises:
        UserError: a run cannot be read, the runs hold different images, no image can be read, or the file cannot be written.
    """
    progress = progress or NoProgress()
    after_run = evaluated(run, progress=progress)
    before_run = evaluated(before, progress=progress) if before is not None else None
    if before_run is not None:
        check_same_images(after_run, before_run)
    curves = draw_curves(read_log(training)) if training is not None else ()
    root = choose_image_root(after_run.files.predictions, asked=root_image_dir, recorded=after_run.files.image_root)
    runs = [("", after_run.result)] if before_run is None else [("Before", before_run.result), ("After", after_run.result)]
    cards = build_cards(runs, rank_images(after_run.result, limit=max_images), root=root, progress=progress)
    path = output if output is not None else after_run.files.predictions.parent / "report.html"
    write_text(path, render_report(after_run, before=before_run, cards=cards, curves=curves, title=title))
    progress.say(f"report of {len(after_run.result.data.images)} images ({path.stat().st_size / 1e6:.1f} MB): {path}")
    return path


def evaluated(run: Path, *, progress: Progress) -> ReportRun:
    """Evaluate a run folder or a predictions file with the default rules."""
    files = RunFiles.of(run)
    settings = EvalSettings(prompt=files.prompt, with_f1ish=False)
    return ReportRun(files.predictions.parent.resolve().name, files, evaluate(files.predictions, settings=settings, progress=progress))
