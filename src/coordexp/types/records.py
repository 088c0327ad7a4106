"""What a data set holds: records with objects, in one coordinate space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

GeometryKind: TypeAlias = Literal["bbox_2d", "poly"]
CoordSpace: TypeAlias = Literal["pixel", "norm1000", "token"]

JsonObject: TypeAlias = Mapping[str, Any]
"""Free provenance that a user wrote; carried, never interpreted."""


@dataclass(frozen=True, slots=True)
class DetObject:
    """One annotated object.

    Example: `DetObject(desc="black cat", kind="bbox_2d", points=(110, 310, 410, 705))`
    """

    desc: str
    kind: GeometryKind
    points: tuple[float, ...]
    """xyxy for `bbox_2d`; flat ring x1,y1,x2,y2,… for `poly`. Pixels when the record's space is `pixel`, else bins 0..999 (ints)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its objects: one line of a data file.

    Example: `Record(id="val:12", image="images/12.png", width=192, height=160, objects=(...), coord_space="norm1000")`
    """

    id: str
    """`<file stem>:<line number from 1>`: names the record in every error and artifact."""
    image: str
    """Relative to the folder of the data file; never absolute, never leaves it."""
    width: int
    height: int
    objects: tuple[DetObject, ...]
    coord_space: CoordSpace
    """`token` and `norm1000` hold the same bins; they differ only in how the file spells them."""
    dataset: str = ""
    prompt_labels: tuple[str, ...] | None = None
    """Category list for the prompt; None: the prompt names none."""
    summary: str | None = None
    metadata: JsonObject = field(default_factory=dict[str, Any])
