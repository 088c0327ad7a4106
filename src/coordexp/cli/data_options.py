"""Options that several commands of `coordexp data` take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coordexp.types.records import CoordSpace


class Space(StrEnum):
    PIXEL = "pixel"
    NORM1000 = "norm1000"
    TOKEN = "token"


Source = Annotated[Path, typer.Argument(help="A record file (JSONL).", show_default=False)]
SpaceOption = Annotated[Space | None, typer.Option("--coord-space", help="Space of records that do not name theirs; plain integers are refused without it.")]


def space_value(space: Space | None) -> CoordSpace | None:
    """The option as the core takes it."""
    return None if space is None else space.value
