"""`coordexp eval compare`: two runs on the same images in, compare.json and compare.html out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from coordexp.config.compare import CompareConfig
from coordexp.evaluation.comparable import check_same_data
from coordexp.evaluation.compare import Comparison, changed_images, compare
from coordexp.evaluation.comparison_summary import comparison_summary
from coordexp.evaluation.evaluate import evaluate, evaluate_coco
from coordexp.evaluation.result import EvaluationResult
from coordexp.evaluation.saved import SavedEvaluation, is_saved_evaluation, read_saved
from coordexp.pipeline.artifacts import check_writable
from coordexp.recipes.rules import evaluation_settings, label_encoder, recorded_rules
from coordexp.types.errors import DataError
from coordexp.types.files import replace_owned, write_text
from coordexp.types.progress import NoProgress, Progress
from coordexp.viz.compare_page import render_comparison
from coordexp.viz.gallery_data import Gallery, build_gallery
from coordexp.viz.images import choose_image_root
from coordexp.viz.page import page_environment
from coordexp.viz.run_files import PREDICTIONS, RunFiles
from coordexp.viz.thumbnails import PicturePlan, Thumbnails, make_thumbnails

_OWN = frozenset({"compare.json", "compare.html"})


def run_compare(config: CompareConfig, *, progress: Progress | None = None) -> tuple[Comparison, Path]:
    """Compare run B with run A and write the results; returns them and their folder.

    Raises:
        UserError: a run cannot be read, the runs hold different images or ground truth, or the folder cannot be written.
    """
    progress = progress or NoProgress()
    run_a, run_b = _open(config.a), _open(config.b)
    names = distinct_names(run_a.files.predictions, run_b.files.predictions)
    folder = config.out_dir or run_b.files.predictions.parent / f"compare_with_{names[0].replace('/', '_')}"
    check_writable(folder)
    page_environment()  # what the page needs is missed now and not after the work
    a, b = (_evaluate(run, config, progress=progress) for run in (run_a, run_b))
    check_same_data(a, b, names=names)
    gallery = _gallery(a, b, run_b.files, config, progress=progress)
    comparison = compare(a, b, num_resamples=config.bootstrap, seed=config.bootstrap_seed, names=names, progress=progress)
    with replace_owned(folder, is_owned=_OWN.__contains__) as new:
        write_text(new / "compare.json", msgspec.json.format(msgspec.json.encode(comparison_summary(comparison)), indent=2).decode() + "\n")
        write_text(new / "compare.html", render_comparison(comparison, (run_a.files, run_b.files), gallery=gallery))
    for warning in comparison.warnings:
        progress.say(f"warning: {warning}")
    for letter, result in (("A", a), ("B", b)):
        for warning in result.warnings:
            progress.say(f"warning: {letter}: {warning}")
    return comparison, folder


def distinct_names(a: Path, b: Path) -> tuple[str, str]:
    """The shortest ends of the two folders that differ; the names of the files when the folder is the same.

    Example: `output/x/infer/gt_vs_pred.jsonl`, `output/y/infer/gt_vs_pred.jsonl` → `("x/infer", "y/infer")`
    """
    parts_a, parts_b = a.resolve().parent.parts, b.resolve().parent.parts
    if parts_a == parts_b:
        return (a.stem, b.stem) if a.stem != b.stem else (f"{a.parent.resolve().name} (A)", f"{b.parent.resolve().name} (B)")
    length = next(count for count in range(1, max(len(parts_a), len(parts_b)) + 1) if parts_a[-count:] != parts_b[-count:])
    return "/".join(parts_a[-length:]).lstrip("/"), "/".join(parts_b[-length:]).lstrip("/")


@dataclass(frozen=True, slots=True)
class _Run:
    files: RunFiles
    saved: SavedEvaluation | None = None
    """When the folder of an evaluation was given: its rules hold."""


def _open(path: Path) -> _Run:
    if (path / PREDICTIONS).is_file() or not is_saved_evaluation(path):
        return _Run(RunFiles.of(path))
    saved = read_saved(path)
    return _Run(RunFiles(saved.predictions, {}, {}) if saved.coco_gt else RunFiles.beside(saved.predictions), saved)


def _evaluate(run: _Run, config: CompareConfig, *, progress: Progress) -> EvaluationResult:
    """Flags win over the rules of the folder, and those over the defaults."""
    rules = recorded_rules(run.saved.protocol) if run.saved is not None else {}
    section = config.model_copy(update={name: value for name, value in rules.items() if name not in config.model_fields_set})
    settings = replace(evaluation_settings(section, prompt=run.files.prompt), with_f1ish=False, bootstrap=0, constraint=run.files.constraint)
    if run.saved is not None and run.saved.coco_gt is not None:
        settings = replace(settings, protocol=run.saved.protocol.ap_rules)
        if run.saved.protocol.iou_of == "boxes" and "no_segm" not in config.model_fields_set:
            settings = replace(settings, with_segm=False)
        return evaluate_coco(run.saved.coco_gt, run.saved.predictions, settings=settings, progress=progress)
    return evaluate(run.files.predictions, settings=settings, encoder=label_encoder(section), progress=progress)


def _gallery(a: EvaluationResult, b: EvaluationResult, files: RunFiles, config: CompareConfig, *, progress: Progress) -> Gallery | None:
    """The images that changed most; None without any. A comparison is never lost because its images lie elsewhere: then there are boxes alone."""
    places = sorted(change.place for change in changed_images(a, b)[: config.max_images])
    if not places:
        return None
    try:
        root = choose_image_root(files.predictions, asked=config.root_image_dir, recorded=files.image_root)
        pictures = make_thumbnails(b.data.images, PicturePlan(embedded=tuple(places)), root=root, progress=progress)
    except DataError as error:
        progress.say(f"warning: the page has no pictures: {error}")
        pictures = Thumbnails(unreadable=(str(error),) * len(places))
    return build_gallery([("A", a), ("B", b)], pictures, places=places, with_changes=True)
