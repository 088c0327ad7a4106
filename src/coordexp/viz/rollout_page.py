"""The page of a dump of rollouts: one HTML file without a script. Every text that a model or a data set wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordexp.geometry.polygons import box_to_ring
from coordexp.types.dumps import DumpedObject, DumpedRollout, Fate, RolloutDump, Supervision
from coordexp.types.sequences import Provenance
from coordexp.viz.page import asset, content_policy, page_environment

LAST_BIN = 999
_LOWEST_TAG_ABOVE = 8.0
"""A name whose box begins above this per cent of the height stands inside it."""

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
class DumpPicture:
    """The image of a rollout. Example: `DumpPicture(uri="data:image/png;base64,…", width=96, height=96)`"""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class _Outline:
    path: str
    """In bins; the picture is stretched over them."""
    name: str
    is_paired: bool
    note: str
    left: float
    top: float
    """Of the tag, in per cent."""
    is_inside: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """How many tokens of the target come from somewhere, by what teaches them."""

    provenance: Provenance
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _View:
    """A rollout with what the template cannot work out by itself."""

    rollout: DumpedRollout
    picture: DumpPicture | None
    annotations: tuple[_Outline, ...]
    predictions: tuple[_Outline, ...]
    rows: tuple[_Row, ...]
    notices: tuple[str, ...]


def render_rollouts(dump: RolloutDump, pictures: Mapping[str, DumpPicture], *, run_name: str = "") -> str:
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


def _view(rollout: DumpedRollout, picture: DumpPicture | None) -> _View:
    return _View(
        rollout=rollout,
        picture=picture,
        annotations=tuple(_outline(item, note="found" if item.partner is not None else "missed") for item in rollout.annotations),
        predictions=tuple(_outline(item, note=f"IoU {item.iou:.2f}" if item.iou is not None else "matched to nothing") for item in rollout.predictions),
        rows=tuple(_rows(rollout)),
        notices=tuple(_notices(rollout, has_picture=picture is not None)),
    )


def _outline(item: DumpedObject, *, note: str) -> _Outline:
    ring: Sequence[float] = box_to_ring(item.points) if item.kind == "bbox_2d" else item.points
    xs, ys = ring[0::2], ring[1::2]
    path = "M" + "L".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True)) + "Z"
    top = 100 * min(ys) / LAST_BIN
    return _Outline(path, item.desc, item.partner is not None, note, left=100 * min(xs) / LAST_BIN, top=top, is_inside=top < _LOWEST_TAG_ABOVE)


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
