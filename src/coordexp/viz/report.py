"""The report: one HTML file that opens offline and runs no script but its own. Every text that comes from data is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.evaluation.comparable import rule_differences
from coordexp.evaluation.error_types import ErrorExample
from coordexp.evaluation.result import EvaluationResult
from coordexp.types.errors import DataError
from coordexp.viz.crops import Crop
from coordexp.viz.gallery_data import Gallery
from coordexp.viz.page import asset, content_policy, page_environment
from coordexp.viz.report_curves import curves_view
from coordexp.viz.report_data import breakdown, build_tiles, class_rows, counters, run_facts, threshold_chart
from coordexp.viz.report_errors import confusion_view, error_rows
from coordexp.viz.report_health import health_rows
from coordexp.viz.run_files import RunFiles
from coordexp.viz.training_log import Chart

_SCRIPTS = ("page.js", "gallery.js")


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One evaluated run."""

    name: str
    files: RunFiles
    result: EvaluationResult


def render_report(
    run: ReportRun,
    *,
    gallery: Gallery,
    crops: Mapping[ErrorExample, Crop],
    before: ReportRun | None = None,
    curves: Sequence[Chart] = (),
    title: str | None = None,
    notices: Sequence[str] = (),
) -> str:
    """The page as text. `curves` are those of training, `notices` are said at the top.

    Raises:
        BackendError: jinja2 is not installed.
    """
    result, old = run.result, before.result if before is not None else None
    scripts = {name: asset(name) for name in _SCRIPTS}
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            title=title or run.name,
            style=asset("report.css"),
            scripts=scripts,
            policy=content_policy(scripts.values(), with_files=gallery.num_filed > 0),
            before=before,
            result=result,
            tiles=build_tiles(result, old),
            threshold_chart=threshold_chart(result, old),
            sizes=breakdown(result.det.by_size, old.det.by_size if old else None),
            crowds=breakdown(result.det.by_num_objects, old.det.by_num_objects if old else None),
            confidence=curves_view(result, old),
            errors=error_rows(result, old, crops),
            confusion=confusion_view(result),
            classes=class_rows(result, old),
            names=result.semantic_report,
            gallery=gallery,
            health=health_rows(result.analysis.health),
            training=curves,
            facts=run_facts(run.files, result),
            counters=counters(result),
            notices=[*_notices(run, before, gallery), *notices],
        )
    )


def check_same_images(run: ReportRun, before: ReportRun) -> None:
    """A comparison needs the same images in the same order, with the same ground truth.

    Raises:
        DataError: they differ.
    """
    mine, theirs = run.result.data, before.result.data
    where, fix = str(before.files.predictions), "run inference on the same data file for both"
    if len(mine.images) != len(theirs.images):
        raise DataError(f"{len(theirs.images)} images before, {len(mine.images)} now", where=where, fix=fix)
    for one, other in zip(mine.images, theirs.images, strict=True):
        if one.file_name != other.file_name:
            raise DataError(f"image {other.file_name!r} stands where the other run has {one.file_name!r}", where=where, fix=fix)
    same = np.array_equal(mine.gt.image, theirs.gt.image) and np.allclose(mine.gt.boxes, theirs.gt.boxes, atol=1.0)
    if not same or [mine.descs[desc] for desc in mine.gt.desc] != [theirs.descs[desc] for desc in theirs.gt.desc]:
        raise DataError("the ground truth differs from that of the other run", where=where, fix=fix)


def _notices(run: ReportRun, before: ReportRun | None, gallery: Gallery) -> list[str]:
    """What a reader must know before believing a number."""
    notices: list[str] = []
    if not run.result.scores.ap_valid:
        notices.append(f"COCO AP is not valid here: {run.result.scores.ap_note}. F1 does not depend on scores.")
    if before is not None:
        differences = rule_differences(before.result, run.result)
        if differences:
            notices.append(f"The two runs were made under different rules ({'; '.join(differences)}): their numbers are not comparable.")
    if gallery.unreadable:
        count, tried = len(gallery.unreadable), len(gallery.unreadable) + gallery.num_embedded + gallery.num_filed
        notices.append(f"{count:,} of {tried:,} images could not be read; their boxes are drawn on an empty ground. The first: {gallery.unreadable[0]}")
    return [*notices, *run.result.warnings]
