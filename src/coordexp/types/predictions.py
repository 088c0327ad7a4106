"""The line of `gt_vs_pred.jsonl`: what inference writes, and evaluation and pictures read."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordexp.types.records import GeometryKind


@dataclass(frozen=True, slots=True)
class ScoreParts:
    """Where a confidence comes from; each in [0, 1]."""

    desc: float
    coord: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in pixels of its image; a ground truth has no score."""

    desc: str
    kind: GeometryKind
    points: tuple[int, ...]
    """Integer pixels: xyxy or flat ring."""
    points_exact: tuple[float, ...] | None = None
    score: float | None = None
    score_parts: ScoreParts | None = None


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One input record with its predictions, in input order."""

    image: str
    width: int | None
    height: int | None
    mode: str
    """`coord` or `text`."""
    coord_mode: str | None
    """`pixel`, or None when there is no geometry."""
    gt: tuple[Detection, ...]
    pred: tuple[Detection, ...]
    raw_output: str
    errors: tuple[str, ...] = ()
    finish_reason: str | None = None
    score_source: str | None = None
    extras: dict[str, object] = field(default_factory=dict[str, object])
