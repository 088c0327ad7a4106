"""The page of a comparison: one HTML file, like the report, with what changed between two runs. Every text that comes from data is escaped."""

from __future__ import annotations

from coordexp.evaluation.compare import Comparison
from coordexp.viz.comparison_data import HEADLINES, chance_sentence, interval_mark, shared_facts, spell_share, widest
from coordexp.viz.gallery_data import Gallery
from coordexp.viz.page import asset, content_policy, page_environment
from coordexp.viz.palette import class_color
from coordexp.viz.run_files import RunFiles

_TILES = ("F1 at IoU 0.50", "F1, mean over IoU", "Mean IoU of hits", "COCO AP")
_SCRIPTS = ("page.js", "gallery.js")


def render_comparison(comparison: Comparison, files: tuple[RunFiles, RunFiles], *, gallery: Gallery | None = None) -> str:
    """The page as text. `gallery` holds images that changed.

    Raises:
        BackendError: jinja2 is not installed.
    """
    scripts = {name: asset(name) for name in _SCRIPTS}
    headlines = [(name, comparison.metrics[key]) for key, name in HEADLINES if key in comparison.metrics]
    return (
        page_environment()
        .get_template("compare.html.j2")
        .render(
            style=asset("report.css") + asset("compare.css"),
            scripts=scripts,
            policy=content_policy(scripts.values()),
            comparison=comparison,
            has_intervals=comparison.num_resamples > 0,
            tiles=[item for item in headlines if item[0] in _TILES],
            headlines=headlines,
            groups=(("By size of the object", "size", comparison.by_size), ("By objects in the image", "objects", comparison.by_num_objects)),
            chance=chance_sentence(comparison),
            gallery=gallery,
            facts=sorted(shared_facts(files, comparison), key=lambda fact: not fact.differs),
            notices=_notices(comparison, gallery),
            mark=interval_mark,
            widest_of_headlines=widest(change for _, change in headlines),
            widest_of=lambda rows: widest(row.f1 for row in rows),
            spell_share=spell_share,
            color=lambda name: "#{:02x}{:02x}{:02x}".format(*class_color(name)),
        )
    )


def _notices(comparison: Comparison, gallery: Gallery | None) -> list[str]:
    """What a reader must know before believing a number."""
    notices = list(comparison.warnings)
    for letter, result in (("A", comparison.a), ("B", comparison.b)):
        if not result.scores.ap_valid:
            notices.append(f"COCO AP of {letter} is not valid: {result.scores.ap_note}. F1 does not depend on scores.")
        notices += [f"{letter}: {warning}" for warning in result.warnings]
    if gallery is not None and gallery.unreadable:
        notices.append(f"{len(gallery.unreadable)} images could not be read; their boxes are drawn on an empty ground. The first: {gallery.unreadable[0]}")
    return notices
