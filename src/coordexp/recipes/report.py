"""`coordexp report`: evaluate a run, and write what it looks like into an HTML file. `coordexp eval --report` writes the same from what it has evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.types.files import atomic_folder, translate_os_errors, write_text
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.crops import crop_examples
from coordexp.viz.gallery_data import build_gallery, rank_images
from coordexp.viz.images import choose_image_root
from coordexp.viz.page import page_environment
from coordexp.viz.report import ReportRun, check_same_images, render_report
from coordexp.viz.report_errors import shown_examples
from coordexp.viz.run_files import RunFiles
from coordexp.viz.thumbnails import PicturePlan, ThumbnailMode, Thumbnails, check_thumbnail_folder, make_thumbnails, plan_pictures
from coordexp.viz.training_log import Chart, draw_curves, read_log

REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report shows beside the run itself."""

    before: ReportRun | None = None
    """An earlier run on the same images."""
    curves: Sequence[Chart] = ()
    """Of training."""
    title: str | None = None
    """None: the name of the run."""
    thumbnails: ThumbnailMode = "folder"
    max_images: int | None = None
    """Images that are embedded, the worst first; 0: all; None: by their number."""
    notices: tuple[str, ...] = ()
    """Sentences at the top."""
    num_threads: int = 0
    """That read and write pictures; 0: by the number of processors."""


def run_report(
    run: Path,
    *,
    output: Path | None = None,
    before: Path | None = None,
    training: Path | None = None,
    root_image_dir: Path | None = None,
    max_images: int | None = None,
    thumbnails: ThumbnailMode = "folder",
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
        max_images: images embedded in the page, the worst first; 0: all; None: by their number.
        thumbnails: where the pictures of the other images go; see `ThumbnailMode`.
        title: heading; None: the name of the run's folder.
        progress: shows what goes on.

    Raises:
        UserError: a run cannot be read, the runs hold different images, no image can be read, or a file cannot be written.
    """
    progress = progress or NoProgress()
    page_environment()  # what the page needs is missed now and not after the work
    after_run = evaluated(run, progress=progress)
    before_run = evaluated(before, progress=progress) if before is not None else None
    if before_run is not None:
        check_same_images(after_run, before_run)
    curves = draw_curves(read_log(training)) if training is not None else ()
    root = None if thumbnails == "none" else choose_image_root(after_run.files.predictions, asked=root_image_dir, recorded=after_run.files.image_root)
    path = output if output is not None else after_run.files.predictions.parent / REPORT_NAME
    options = ReportOptions(before=before_run, curves=curves, title=title, thumbnails=thumbnails, max_images=max_images)
    num_files = write_report(after_run, path, root=root, options=options, progress=progress)
    beside = f", {num_files:,} pictures in {_folder_of(path).name}/" if num_files else ""
    progress.say(f"report of {len(after_run.result.data.images):,} images ({path.stat().st_size / 1e6:.1f} MB{beside}): {path}")
    return path


def write_report(run: ReportRun, path: Path, *, root: Path | None, options: ReportOptions | None = None, progress: Progress | None = None) -> int:
    """Write the report of an evaluated run to `path`, the pictures that are not in it to the folder `<name>_files` beside it, and return their number.

    `root` is the folder that image paths count from; None: no pictures.

    Raises:
        DataError: not one of the images can be read.
        OutputError: a file cannot be written, or the folder holds something that is not from a report.
    """
    progress, options = progress or NoProgress(), options or ReportOptions()
    result, before = run.result, options.before
    files = _folder_of(path)
    check_thumbnail_folder(files)
    runs = [("", result)] if before is None else [("Before", before.result), ("After", result)]
    plan = PicturePlan() if root is None else plan_pictures(rank_images(result), mode=options.thumbnails, max_images=options.max_images)
    with ExitStack() as stack:
        pictures = Thumbnails()
        if root is not None:
            threads, make_folder = options.num_threads, lambda: stack.enter_context(atomic_folder(files))
            pictures = make_thumbnails(result.data.images, plan, root=root, folder=make_folder, num_threads=threads, progress=progress)
        crops = crop_examples(result.data, shown_examples(result), root=root) if root is not None else {}
        gallery = build_gallery(runs, pictures, folder=files.name)
        page = render_report(run, gallery=gallery, crops=crops, before=before, curves=options.curves, title=options.title, notices=options.notices)
    if files.exists() and not pictures.filed:
        with translate_os_errors(files):
            shutil.rmtree(files)
    write_text(path, page)
    return len(pictures.filed)


def _folder_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_files")


def evaluated(run: Path, *, progress: Progress) -> ReportRun:
    """Evaluate a run folder or a predictions file with the default rules."""
    files = RunFiles.of(run)
    settings = EvalSettings(prompt=files.prompt, with_f1ish=False)
    return ReportRun(files.predictions.parent.resolve().name, files, evaluate(files.predictions, settings=settings, progress=progress))
