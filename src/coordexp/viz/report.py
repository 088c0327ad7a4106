"""The report: one HTML file that holds everything, opens offline, and runs no script but its own. Every text that comes from data is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.evaluation.f1_det import IOU_THRESHOLDS
from coordexp.evaluation.result import EvaluationResult
from coordexp.types.errors import DataError
from coordexp.viz.gallery import Card
from coordexp.viz.page import asset, page_environment, script_hash
from coordexp.viz.report_data import breakdown, build_tiles, class_rows, run_facts, threshold_chart
from coordexp.viz.run_files import RunFiles
from coordexp.viz.training_log import Chart


@dataclass(frozen=True, slots=True)
class ReportRun:
    """One evaluated run."""

    name: str
    files: RunFiles
    result: EvaluationResult


def render_report(
    run: ReportRun, *, before: ReportRun | None = None, cards: Sequence[Card] = (), curves: Sequence[Chart] = (), title: str | None = None
) -> str:
    """The page as text.

    Raises:
        BackendError: jinja2 is not installed.
    """
    old = before.result if before is not None else None
    det, old_det = run.result.det, old.det if old is not None else None
    script = asset("report.js")
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            title=title or run.name,
            style=asset("report.css"),
            script=script,
            script_hash=script_hash(script),
            run=run,
            before=before,
            result=run.result,
            tiles=build_tiles(run.result, old),
            threshold_chart=threshold_chart(run.result, old),
            thresholds=IOU_THRESHOLDS,
            classes=class_rows(run.result, old),
            sizes=breakdown(det.by_size, old_det.by_size if old_det else None),
            crowds=breakdown(det.by_num_objects, old_det.by_num_objects if old_det else None),
            cards=cards,
            labels=sorted({label for card in cards for label in card.labels}),
            curves=curves,
            facts=run_facts(run.files, run.result),
            notices=_notices(run, before, cards),
        )
    )


def check_same_images(run: ReportRun, before: ReportRun) -> None:
    """A comparison needs the same images in the same order.

    Raises:
        DataError: they differ.
    """
    mine, theirs = run.result.data.images, before.result.data.images
    fix = "run inference on the same data file for both"
    if len(mine) != len(theirs):
        raise DataError(f"{len(theirs)} images before, {len(mine)} now", where=str(before.files.predictions), fix=fix)
    for one, other in zip(mine, theirs, strict=True):
        if one.file_name != other.file_name:
            raise DataError(f"image {other.file_name!r} stands where the other run has {one.file_name!r}", where=str(before.files.predictions), fix=fix)


def _notices(run: ReportRun, before: ReportRun | None, cards: Sequence[Card]) -> list[str]:
    """What a reader must know before believing a number."""
    notices: list[str] = []
    if not run.result.scores.ap_valid:
        notices.append(f"COCO AP is not valid here: {run.result.scores.ap_note}. F1 does not depend on scores.")
    if before is not None:
        differences = before.result.protocol.differences(run.result.protocol)
        if differences:
            notices.append(f"The two runs were made under different rules ({'; '.join(differences)}): their numbers are not comparable.")
    unreadable = sum(card.uri is None for card in cards)
    if unreadable:
        notices.append(f"{unreadable} of the {len(cards)} images in the gallery could not be read; their boxes are drawn on an empty ground.")
    return [*notices, *run.result.warnings]
