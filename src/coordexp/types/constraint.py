"""What constrained decoding lets a model write. Plain values: travels to a server as JSON, stands in summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from coordexp.types.records import GeometryKind

MIN_DESC_TOKENS = 16
"""What a desc may need once it is begun: the rest of an escape or of a character, a letter, the quote."""


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """Example: `ConstraintSpec(kinds=("bbox_2d", "poly"), labels=("cat", "dog"), max_objects=100)`

    Raises:
        ValueError: no kind, a label that says nothing or holds half a surrogate pair, or a limit that leaves no room.
    """

    field_order: Literal["desc_first", "geometry_first"] = "desc_first"
    coord_mode: Literal["coord", "text"] = "coord"
    kinds: tuple[GeometryKind, ...] = ("bbox_2d",)
    labels: tuple[str, ...] | None = None
    """A desc is one of these; None: any text that is not blank."""
    max_objects: int | None = None
    max_desc_tokens: int = 64
    """Longest desc in tokens; the one that ends it counts. Labels have no such limit."""

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= {"bbox_2d", "poly"}:
            raise ValueError(f"kinds are one or both of bbox_2d and poly, not {self.kinds}")
        if self.labels is not None:
            bad = [label for label in self.labels if not label.strip() or not _is_encodable(label)]
            if not self.labels or bad:
                raise ValueError(f"no desc can be {bad[0]!r}" if bad else "labels is an empty list: nothing could be named")
        if self.max_objects is not None and self.max_objects < 1:
            raise ValueError(f"max_objects is at least 1, not {self.max_objects}")
        if self.max_desc_tokens < MIN_DESC_TOKENS:
            raise ValueError(f"max_desc_tokens is at least {MIN_DESC_TOKENS}, not {self.max_desc_tokens}")

    def as_json(self) -> dict[str, Any]:
        """For a request; `from_json` reads it."""
        return {**asdict(self), "kinds": list(self.kinds), "labels": None if self.labels is None else list(self.labels)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ConstraintSpec:
        """Raises ValueError when it is not what `as_json` writes."""
        known = dict(document)
        try:
            kinds, labels = tuple(known.pop("kinds")), known.pop("labels")
            spec = cls(kinds=cast(tuple[GeometryKind, ...], kinds), labels=None if labels is None else tuple(map(str, labels)), **known)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no constraint ({type(error).__name__}: {error}): {dict(document)}") from error
        if spec.field_order not in ("desc_first", "geometry_first") or spec.coord_mode not in ("coord", "text"):
            raise ValueError(f"unknown field order or coordinate mode: {spec.field_order}, {spec.coord_mode}")
        return spec


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
