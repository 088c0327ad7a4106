"""A finding: what is wrong, how that shows, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any

MAX_PLACES = 5
"""Lines that a finding shows."""


class Severity(IntEnum):
    """Higher is worse."""

    NOTE = 0
    """Allowed, and worth knowing."""
    WARNING = 1
    """Training runs, on something that is probably not meant."""
    ERROR = 2
    """Training refuses it, or learns what is not there."""


class Check(StrEnum):
    """What can be found. The values are public: `findings[].check` of the JSON form; docs/data/doctor.md has a paragraph on each."""

    RULES = "rules"
    UNIT_RANGE = "unit_range"
    XYWH = "xywh"
    ABSOLUTE_IN_NORM1000 = "absolute_in_norm1000"
    NORM1000_IN_PIXEL = "norm1000_in_pixel"
    DOUBLE_NORMALIZED = "double_normalized"
    OTHER_SIZE = "other_size"
    SWAPPED_AXES = "swapped_axes"
    TURNED = "turned"
    EQUAL_BOXES = "equal_boxes"
    LABEL_SPACES = "label_spaces"
    LABEL_VARIANTS = "label_variants"
    TWO_LABEL_SETS = "two_label_sets"
    REPEATED_IMAGES = "repeated_images"
    IMAGE_FILE = "image_file"
    IMAGE_SIZE = "image_size"
    EXIF = "exif"
    ASPECT_RATIO = "aspect_ratio"
    COORD_TOKENS = "coord_tokens"
    CHAT_TEMPLATE = "chat_template"
    PROMPT_IDS = "prompt_ids"
    PROCESSOR_RESIZES = "processor_resizes"
    MAX_LENGTH = "max_length"
    ROUND_TRIP = "round_trip"


@dataclass(frozen=True, slots=True)
class Place:
    """Example: `Place(line=412, object=3, note="[180, 20, 120, 90] in 640x480")`"""

    line: int
    """From 1."""
    object: int | None = None
    """From 0."""
    note: str = ""

    def describe(self, file: str) -> str:
        """Example: `train.jsonl:412: objects[3]: [180, 20, 120, 90] in 640x480`"""
        index = "" if self.object is None else f": objects[{self.object}]"
        return f"{file}:{self.line}{index}" + (f": {self.note}" if self.note else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """Example: `Finding(Check.LABEL_SPACES, Severity.WARNING, "3 of 120 labels …", "strip them", (Place(7, 0, "'cat '"),))`"""

    check: Check
    severity: Severity
    what: str
    """With the numbers that show it."""
    fix: str
    places: tuple[Place, ...] = ()
    """At most `MAX_PLACES`."""

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check.value,
            "severity": self.severity.name.lower(),
            "what": self.what,
            "fix": self.fix,
            "places": [asdict(place) for place in self.places],
        }


def first_places(places: Iterable[Place]) -> tuple[Place, ...]:
    """As many as a finding shows."""
    return tuple(place for place, _ in zip(places, range(MAX_PLACES), strict=False))


def worst(findings: Sequence[Finding]) -> Severity:
    """The highest severity; `NOTE` when there is no finding."""
    return max((finding.severity for finding in findings), default=Severity.NOTE)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, warnings, notes; otherwise in the order in which they were found."""
    return sorted(findings, key=lambda finding: -finding.severity)
