"""Which language a run speaks: `coord` (ground truth in bins, coordinate tokens), `text` (ground truth in pixels, plain numbers) or `native`, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from coordexp.codec.detect_mode import detect_mode
from coordexp.pipeline.source import SourceLine
from coordexp.pipeline.standardize import Mode

AskedMode: TypeAlias = Literal["coord", "text", "native", "auto"]


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """Example: `ModeChoice("coord", reason="coord_tokens_found", num_records=1)`"""

    mode: Mode
    reason: str
    """`configured`, a reason of `detect_mode`, or `coord_space_norm1000` / `coord_space_pixel` when the records say it themselves."""
    num_records: int
    """Records that were looked at."""


def choose_mode(asked: AskedMode, lines: Iterable[SourceLine], *, detect_samples: int) -> ModeChoice:
    """The mode that was asked for; `auto` looks at the first `detect_samples` valid records.

    What the records name as their coordinate space wins over what their numbers look like: boxes in bins that happen to fit a large image are still bins.
    """
    if asked != "auto":
        return ModeChoice(asked, "configured", 0)
    valid = list(islice((line for line in lines if line.record is not None and line.record.objects), detect_samples))
    detected = detect_mode([line.raw for line in valid], max_records=detect_samples)
    spaces = {"pixel" if line.record is not None and line.record.coord_space == "pixel" else "norm1000" for line in valid}
    if detected.reason == "within_image_bounds" and spaces == {"norm1000"}:
        return ModeChoice("coord", "coord_space_norm1000", detected.num_records)
    if detected.reason == "points_exceed_image" and spaces == {"pixel"}:
        return ModeChoice("text", "coord_space_pixel", detected.num_records)
    return ModeChoice(detected.mode, detected.reason, detected.num_records)
