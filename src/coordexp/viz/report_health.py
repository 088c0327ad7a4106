"""Generation health as lines of the report."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.evaluation.health import DUPLICATE_IOU, GenerationHealth, ObjectsPerImage


@dataclass(frozen=True, slots=True)
class HealthRow:
    """Example: `HealthRow("empty answers", "2.0 %", "images without a usable prediction")`"""

    name: str
    value: str
    meaning: str
    is_bad: bool = False
    """A share above zero of something that should not happen."""


def health_rows(health: GenerationHealth) -> tuple[HealthRow, ...]:
    """Shares first, then objects per image. What the records do not say is left out."""
    shares = (
        ("cut off", health.truncated, "answers that reached the limit of tokens"),
        ("ended by the loop guard", health.looped, "answers that repeated themselves"),
        ("failed", health.failed, "images without an answer"),
        ("malformed", health.malformed, "images with an entry that could not be read or used"),
        ("empty", health.empty, "images without a usable prediction, failed ones left out"),
        ("repeated boxes", health.duplicates, f"predictions with the name of an earlier one and IoU above {DUPLICATE_IOU:.2f} with it"),
    )
    rows = [HealthRow(name, _percent(share), meaning, is_bad=share > 0) for name, share, meaning in shares if share is not None]
    rows += [
        HealthRow("predictions in an image", _spread(health.pred_objects), "mean; median, 90th percentile, most"),
        HealthRow("ground truths in an image", _spread(health.gt_objects), "mean; median, 90th percentile, most"),
    ]
    return tuple(rows)


def _percent(share: float) -> str:
    """One that is not zero never looks like zero."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def _spread(objects: ObjectsPerImage) -> str:
    return f"{objects.mean:.1f}; {objects.p50:g}, {objects.p90:g}, {objects.max}"
