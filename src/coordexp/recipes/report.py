"""`coordexp report`: evaluate a run, and write what it looks like into an HTML file. `coordexp eval --report` writes the same from what it has evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coordexp.config.evaluation import EvalSettings as EvalSection
from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.saved import is_saved_evaluation, read_protocol
from coordexp.recipes.rules import evaluation_settings, label_encoder, recorded_rules
from coordexp.types.errors import DataError
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
    rules: Mapping[str, str] | None = None,
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
        rules: of the evaluation of both runs, by their names in a configuration; those of the run's own evaluation where absent.
        progress: shows what goes on.

    Raises:
        UserError: a run cannot be read, the runs hold different images, no image can be read, or a file cannot be written.
    """
    progress = progress or NoProgress()
    page_environment()  # what the page needs is missed now and not after the work
    files = RunFiles.of(run)
    section = report_rules(files, rules or {})
    after_run = evaluated(files, section, progress=progress)
    before_run = evaluated(RunFiles.of(before), section, progress=progress) if before is not None else None
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


def report_rules(files: RunFiles, flags: Mapping[str, str]) -> EvalSection:
    """The rules that a report measures a run under: the flags, those of the run's own evaluation (`eval/` beside the predictions), the defaults, in this order.

    Without an evaluation, or with one of COCO files, names are compared as texts: a report does not need an encoder then.

    Raises:
        UserError: the evaluation cannot be read.
    """
    folder = files.predictions.parent / "eval"
    protocol = read_protocol(folder) if is_saved_evaluation(folder) else None
    rules: dict[str, Any] = {"label_match": "exact"} if protocol is None else recorded_rules(protocol)
    if rules.get("score_mode") == "model":
        rules["score_mode"] = "auto"  # the same for this run; the one before may have no scores
    try:
        EvalSection(**rules)
    except ValidationError as error:
        names = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise DataError(f"records rules that are none of an evaluation ({names})", where=str(folder), fix="evaluate the predictions again") from error
    return EvalSection(**{**rules, **flags})


def evaluated(files: RunFiles, rules: EvalSection, *, progress: Progress) -> ReportRun:
    """Evaluate the predictions of a run for a report."""
    settings = replace(evaluation_settings(rules, prompt=files.prompt), with_f1ish=False, constraint=files.constraint)
    result = evaluate(files.predictions, settings=settings, encoder=label_encoder(rules), progress=progress)
    return ReportRun(files.predictions.parent.resolve().name, files, result)
