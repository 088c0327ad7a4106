"""The page of a comparison: one HTML file, like the report, with what changed between two runs. Every text that comes from data is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coordexp.evaluation.compare import Comparison, ImageChange
from coordexp.viz.comparison_data import HEADLINES, chance_sentence, interval_mark, shared_facts, spell_share, widest
from coordexp.viz.gallery import Card
from coordexp.viz.page import asset, page_environment, script_hash
from coordexp.viz.palette import class_color
from coordexp.viz.run_files import RunFiles

_TILES = ("F1 at IoU 0.50", "F1, mean over IoU", "Mean IoU of hits", "COCO AP")


@dataclass(frozen=True, slots=True)
class ChangedCard:
    """A card of the gallery with what changed on it."""

    card: Card
    gained: str
    """Names of the objects that only B finds. Example: `2 × dog, cat`"""
    lost: str
    num_gained: int
    num_lost: int
    labels: tuple[str, ...]
    """Distinct names of the objects that changed, for the filter."""


def render_comparison(comparison: Comparison, files: tuple[RunFiles, RunFiles], *, cards: Sequence[Card] = ()) -> str:
    """The page as text. `cards` are those of the first of `comparison.images`, in that order.

    Raises:
        BackendError: jinja2 is not installed.
    """
    script = asset("report.js")
    headlines = [(name, comparison.metrics[key]) for key, name in HEADLINES if key in comparison.metrics]
    changed = [_changed(card, change, comparison) for card, change in zip(cards, comparison.images, strict=False)]
    return (
        page_environment()
        .get_template("compare.html.j2")
        .render(
            style=asset("report.css") + asset("compare.css"),
            script=script,
            script_hash=script_hash(script),
            comparison=comparison,
            has_intervals=comparison.num_resamples > 0,
            tiles=[item for item in headlines if item[0] in _TILES],
            headlines=headlines,
            groups=(("By size of the object", "size", comparison.by_size), ("By objects in the image", "objects", comparison.by_num_objects)),
            chance=chance_sentence(comparison),
            cards=changed,
            labels=sorted({label for item in changed for label in item.labels}),
            facts=sorted(shared_facts(files, comparison), key=lambda fact: not fact.differs),
            notices=_notices(comparison, cards),
            mark=interval_mark,
            widest_of_headlines=widest(change for _, change in headlines),
            widest_of=lambda rows: widest(row.f1 for row in rows),
            spell_share=spell_share,
            color=lambda name: "#{:02x}{:02x}{:02x}".format(*class_color(name)),
        )
    )


def _changed(card: Card, change: ImageChange, comparison: Comparison) -> ChangedCard:
    data = comparison.a.data

    def names(rows: Iterable[int]) -> list[str]:
        return [data.descs[int(data.gt.desc[row])] or "(no name)" for row in rows]

    gained, lost = names(change.gained), names(change.lost)
    return ChangedCard(card, _list(gained), _list(lost), len(gained), len(lost), tuple(sorted({*gained, *lost})))


def _list(names: Iterable[str]) -> str:
    """Example: `2 × dog, cat`"""
    return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in Counter(names).most_common())


def _notices(comparison: Comparison, cards: Sequence[Card]) -> list[str]:
    """What a reader must know before believing a number."""
    notices = list(comparison.warnings)
    for letter, result in (("A", comparison.a), ("B", comparison.b)):
        if not result.scores.ap_valid:
            notices.append(f"COCO AP of {letter} is not valid: {result.scores.ap_note}. F1 does not depend on scores.")
        notices += [f"{letter}: {warning}" for warning in result.warnings]
    unreadable = sum(card.uri is None for card in cards)
    if unreadable:
        notices.append(f"{unreadable} of the {len(cards)} images in the gallery could not be read; their boxes are drawn on an empty ground.")
    return notices
