"""Rollouts for people: what was asked, written, read and matched, and what is taught, token by token. Becomes JSON, and a page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from coordexp.types.records import GeometryKind
from coordexp.types.sequences import Provenance

SCHEMA_VERSION = 1


class Supervision(StrEnum):
    """What a token of the target is taught by."""

    STRUCTURE = "structure"
    """Cross-entropy: JSON structure, keys, closing brace, end."""
    DESC = "desc"
    """Cross-entropy: a name."""
    GEOMETRY = "geometry"
    """The losses of a coordinate slot."""
    NONE = "none"


class Fate(StrEnum):
    """What became of a token of the answer."""

    MATCHED = "matched"
    """In an object that was matched."""
    UNMATCHED = "unmatched"
    DROPPED = "dropped"
    """In an entry that could not be used."""
    CUT = "cut"
    """Behind the last complete entry."""
    GLUE = "glue"
    """Between entries."""


@dataclass(frozen=True, slots=True)
class DumpedAnswerToken:
    """Example: `DumpedAnswerToken(id=812, text='"object_', fate=Fate.MATCHED, is_kept=True)`"""

    id: int
    text: str
    """Bytes that are no whole character are spelled `\\xNN`."""
    fate: Fate
    is_kept: bool
    """Its entry stands in the target."""


@dataclass(frozen=True, slots=True)
class DumpedTargetToken:
    """One token of the target.

    Example: `DumpedTargetToken(1204, "<|coord_12|>", "coord", Provenance.MATCHED, Supervision.GEOMETRY, weight=1.0, target_bin=14.0)`
    """

    id: int
    text: str
    role: str
    """`Role` in small letters."""
    provenance: Provenance
    supervision: Supervision
    weight: float
    """Of the cross-entropy, or of the slot."""
    target_bin: float | None
    """Where a coordinate should be."""


@dataclass(frozen=True, slots=True)
class DumpedObject:
    """A predicted or annotated object. Example: `DumpedObject(desc="cat", kind="bbox_2d", points=(1, 2, 30, 40), partner=0, iou=0.91)`"""

    desc: str
    kind: GeometryKind
    points: tuple[float, ...]
    """Bins."""
    partner: int | None
    """Place of the object that it was matched to in the other list; None: missed, or a false positive."""
    iou: float | None
    key: str | None = None
    """Of a predicted one."""


@dataclass(frozen=True, slots=True)
class DumpedDrop:
    """An entry that could not be used. Example: `DumpedDrop(key="object_4", reason="wrong_arity", is_in_prefix=True)`"""

    key: str
    reason: str
    is_in_prefix: bool


@dataclass(frozen=True, slots=True)
class DumpedRollout:
    """One rollout."""

    sample_id: str
    dataset: str
    prompt: str
    """Before the image placeholder was expanded."""
    num_prompt_tokens: int
    answer: tuple[DumpedAnswerToken, ...]
    finish_reason: str
    seed: int
    policy_version: int
    is_truncated: bool
    is_invalid: bool
    num_ambiguous: int
    predictions: tuple[DumpedObject, ...]
    annotations: tuple[DumpedObject, ...]
    drops: tuple[DumpedDrop, ...]
    target: tuple[DumpedTargetToken, ...]
    is_fallback: bool
    num_joins: int
    num_noncanonical_joins: int

    @property
    def num_matched(self) -> int:
        return sum(item.partner is not None for item in self.predictions)


@dataclass(frozen=True, slots=True)
class RolloutDump:
    """Some rollouts of one step."""

    step: int
    """Optimizer step, from 0."""
    rollouts: tuple[DumpedRollout, ...]
    num_rollouts: int
    """Of the step; as many as are shown, or more."""

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`: the fields by name, enumerations as their words."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}
