"""Mode auto of inference: whether a data file speaks in coordinates of a model (`coord`) or in pixels (`text`), judged by its first valid records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from coordexp.codec.coord_tokens import parse_coord_token

ModeReason: TypeAlias = Literal["coord_tokens_found", "points_exceed_image", "within_image_bounds", "no_valid_records"]


@dataclass(frozen=True, slots=True)
class DetectedMode:
    """Example: `DetectedMode("coord", "coord_tokens_found", num_records=128)`"""

    mode: Literal["coord", "text"]
    reason: ModeReason
    num_records: int
    """Valid records that were looked at."""


def detect_mode(records: Iterable[Mapping[str, Any]], *, max_records: int) -> DetectedMode:
    """Decide by the first `max_records` valid records, as they stand in the file (parsed JSON objects).

    A record is valid when it has a positive width and height, also as text, and at least one object. A coordinate token anywhere decides for `coord`; else a
    value beyond max(width, height) does, since no pixel is there; else `text`.
    """
    num_records, is_beyond = 0, False
    for record in records:
        size = _longer_side(record)
        objects = record.get("objects")
        if size is None or not isinstance(objects, list) or not objects:
            continue
        num_records += 1
        for value in _values(cast("list[object]", objects)):
            if isinstance(value, str):
                if parse_coord_token(value) is not None:
                    return DetectedMode("coord", "coord_tokens_found", num_records)
            else:
                is_beyond = is_beyond or value > size
        if num_records >= max_records:
            break
    if num_records == 0:
        return DetectedMode("text", "no_valid_records", 0)
    return DetectedMode("coord", "points_exceed_image", num_records) if is_beyond else DetectedMode("text", "within_image_bounds", num_records)


def _longer_side(record: Mapping[str, Any]) -> float | None:
    try:
        width, height = float(record["width"]), float(record["height"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(width, height) if width > 0 and height > 0 else None


def _values(objects: list[object]) -> Iterator[str | float]:
    """Every text and number in the geometries of the objects, however nested."""
    waiting: list[object] = []
    for item in objects:
        if isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            waiting.extend(fields[kind] for kind in ("bbox_2d", "poly") if kind in fields)
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(cast("list[object]", value))
        elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield value
