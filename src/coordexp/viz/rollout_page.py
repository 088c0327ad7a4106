"""The page of a dump of rollouts: one HTML file without a script. Every text that a model or a data set wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordexp.types.dumps import DumpedObject, DumpedRollout, Fate, RolloutDump, Supervision
from coordexp.types.sequences import Provenance
from coordexp.viz.outlines import Outline, PagePicture, outline_of
from coordexp.viz.page import asset, content_policy, page_environment

_SUPERVISION_WORDS = {
    Supervision.STRUCTURE: "cross-entropy, structure",
    Supervision.DESC: "cross-entropy, name",
    Supervision.GEOMETRY: "coordinate losses",
    Supervision.NONE: "not taught",
}
_PROVENANCE_WORDS = {
    Provenance.MATCHED: "own object, matched",
    Provenance.UNMATCHED: "own object, matched to nothing",
    Provenance.DROPPED: "own entry that could not be used",
    Provenance.APPENDED: "annotated object that was missed, added",
    Provenance.CLOSURE: "closing brace and end",
    Provenance.GROUND_TRUTH: "annotation",
}
_FATE_WORDS = {
    Fate.MATCHED: "object, matched",
    Fate.UNMATCHED: "object, matched to nothing",
    Fate.DROPPED: "entry that could not be used",
    Fate.CUT: "behind the last complete entry",
    Fate.GLUE: "between entries",
}


@dataclass(frozen=True, slots=True)
class _Row:
    """How many tokens of the target come from somewhere, by what teaches them."""

    provenance: Provenance
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _View:
    """A rollout with what the template cannot work out by itself."""

    rollout: DumpedRollout
    picture: PagePicture | None
    annotations: tuple[Outline, ...]
    predictions: tuple[Outline, ...]
    rows: tuple[_Row, ...]
    notices: tuple[str, ...]


def render_rollouts(dump: RolloutDump, pictures: Mapping[str, PagePicture], *, run_name: str = "") -> str:
    """The page as text.

    Args:
        dump: what is shown.
        pictures: images by sample id; a sample without one is drawn on an empty ground.
        run_name: for the title.

    Raises:
        BackendError: jinja2 is not installed.
    """
    present = {token.provenance for rollout in dump.rollouts for token in rollout.target}
    return (
        page_environment()
        .get_template("rollouts.html.j2")
        .render(
            style=asset("report.css") + asset("rollouts.css"),
            policy=content_policy(()),
            dump=dump,
            run_name=run_name,
            views=[_view(rollout, pictures.get(rollout.sample_id)) for rollout in dump.rollouts],
            supervision_words=_SUPERVISION_WORDS,
            provenance_words={provenance: words for provenance, words in _PROVENANCE_WORDS.items() if provenance in present},
            fate_words=_FATE_WORDS,
        )
    )


def _view(rollout: DumpedRollout, picture: PagePicture | None) -> _View:
    return _View(
        rollout=rollout,
        picture=picture,
        annotations=tuple(_annotation(item) for item in rollout.annotations),
        predictions=tuple(_prediction(item) for item in rollout.predictions),
        rows=tuple(_rows(rollout)),
        notices=tuple(_notices(rollout, has_picture=picture is not None)),
    )


def _annotation(item: DumpedObject) -> Outline:
    is_found = item.partner is not None
    return outline_of(item.kind, item.points, name=item.desc, note="found" if is_found else "missed", style="hit" if is_found else "miss")


def _prediction(item: DumpedObject) -> Outline:
    note = f"IoU {item.iou:.2f}" if item.iou is not None else "matched to nothing"
    return outline_of(item.kind, item.points, name=item.desc, note=note, style="hit" if item.partner is not None else "false")


def _rows(rollout: DumpedRollout) -> list[_Row]:
    rows: list[_Row] = []
    for provenance in Provenance:
        kinds = [token.supervision for token in rollout.target if token.provenance is provenance]
        if kinds:
            rows.append(_Row(provenance, tuple(kinds.count(supervision) for supervision in Supervision)))
    return rows


def _notices(rollout: DumpedRollout, *, has_picture: bool) -> list[str]:
    notices: list[str] = []
    if not has_picture:
        notices.append("The image could not be read; the boxes are drawn on an empty ground.")
    if rollout.is_invalid:
        notices.append("Nothing of this answer can be gone on from: all annotated objects count as missed.")
    if rollout.is_fallback:
        notices.append("The closing brace could not be located behind this answer, so it was left out of the target.")
    if rollout.num_noncanonical_joins:
        notices.append(f"{rollout.num_noncanonical_joins} of {rollout.num_joins} joins are cut as the tokenizer itself would not cut the text.")
    return notices
