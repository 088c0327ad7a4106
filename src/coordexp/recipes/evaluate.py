"""`coordexp eval`: predictions in, numbers out. No model but a text encoder where names have to be compared, and no torch for the default one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from coordexp.config.evaluation import EvalConfig
from coordexp.config.evaluation import EvalSettings as EvalSection
from coordexp.evaluation.artifacts import is_artifact
from coordexp.evaluation.evaluate import evaluate, evaluate_coco
from coordexp.evaluation.result import EvaluationResult
from coordexp.pipeline.artifacts import check_writable
from coordexp.recipes.report import REPORT_NAME, ReportOptions, write_report
from coordexp.recipes.rules import evaluation_settings, label_encoder
from coordexp.types.errors import DataError
from coordexp.types.files import replace_owned
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.images import choose_image_root
from coordexp.viz.page import page_environment
from coordexp.viz.pictures import write_pictures
from coordexp.viz.report import ReportRun
from coordexp.viz.run_files import RunFiles


def run_evaluation(config: EvalConfig, *, progress: Progress | None = None) -> EvaluationResult:
    """Evaluate `pred_jsonl`, or `coco_preds` against `coco_gt`, and write the artifacts to `out_dir`.

    Raises:
        UserError: the predictions cannot be read, a setting cannot be served, or the folder cannot be written.
    """
    progress = progress or NoProgress()
    run = _find_run(config)
    check_writable(config.out_dir)
    if config.report:
        page_environment()  # what the page needs is missed now and not after the work
    settings = replace(evaluation_settings(config, prompt=run.prompt), constraint=run.constraint, protocol=config.protocol)
    if config.coco_gt is not None:
        result = evaluate_coco(config.coco_gt, run.predictions, settings=settings, progress=progress)
    else:
        result = evaluate(run.predictions, settings=settings, encoder=label_encoder(config), progress=progress)
    save_evaluation(result, config.out_dir, section=config, run=run, root_image_dir=config.root_image_dir, progress=progress)
    for warning in result.warnings:
        progress.say(f"warning: {warning}")
    progress.say(f"{result}\nresults: {config.out_dir}")
    return result


def _find_run(config: EvalConfig) -> RunFiles:
    """What inference wrote beside the predictions; nothing when they are a COCO file."""
    if config.pred_jsonl is not None:
        return RunFiles.of(config.pred_jsonl)
    assert config.coco_preds is not None  # checked by the schema
    return RunFiles(config.coco_preds, {}, {})


def save_evaluation(
    result: EvaluationResult, folder: Path, *, section: EvalSection, run: RunFiles, root_image_dir: Path | None = None, progress: Progress | None = None
) -> None:
    """Write the artifacts, pictures of the images with most errors when `overlay` asks for them, and the report when `report` does.

    Raises:
        UserError: the folder cannot be written; no image for `overlay` can be read. A report without readable images has no pictures, and says so.
    """
    with replace_owned(folder, is_owned=is_artifact) as new:
        result.write_into(new)
        if section.overlay and section.overlay_k:
            root = choose_image_root(run.predictions, asked=root_image_dir, recorded=run.image_root)
            (new / "overlays").mkdir()
            worst = worst_images(result, section.overlay_k)
            written = write_pictures(result.data, worst, root=root, folder=new / "overlays", num_threads=section.num_workers, progress=progress)
            for problem in written.unreadable:
                (progress or NoProgress()).say(f"warning: {problem}")
        if section.report:
            _save_report(result, new / REPORT_NAME, section=section, run=run, root_image_dir=root_image_dir, progress=progress or NoProgress())
    if section.report:
        (progress or NoProgress()).say(f"report: {folder / REPORT_NAME}")


def _save_report(result: EvaluationResult, path: Path, *, section: EvalSection, run: RunFiles, root_image_dir: Path | None, progress: Progress) -> None:
    """An evaluation is never lost because its images lie elsewhere: then the report has no pictures."""
    evaluated = ReportRun(run.predictions.parent.resolve().name, run, result)
    if section.report_thumbnails == "none":
        write_report(evaluated, path, root=None, progress=progress)
        return
    try:
        root = choose_image_root(run.predictions, asked=root_image_dir, recorded=run.image_root)
        options = ReportOptions(thumbnails=section.report_thumbnails, num_threads=section.num_workers)
        write_report(evaluated, path, root=root, options=options, progress=progress)
    except DataError as error:
        progress.say(f"warning: the report has no pictures: {error}")
        write_report(evaluated, path, root=None, options=ReportOptions(notices=(f"This report has no pictures: {error}",)), progress=progress)


def worst_images(result: EvaluationResult, count: int) -> list[int]:
    """Positions of the images with most errors (false and missed at IoU 0.50), most first; images without errors are left out."""
    errors = np.array([sum(counts.at(0.5)[1:]) for counts in result.det.per_image], dtype=np.int64)
    order: list[int] = np.argsort(-errors, kind="stable").tolist()
    return [place for place in order if errors[place] > 0][:count]
