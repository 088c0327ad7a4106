"""Options that several commands of `coordexp data` take."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordexp.cli.command_line import said_command

if TYPE_CHECKING:
    from coordexp.types.records import CoordSpace


class Space(StrEnum):
    PIXEL = "pixel"
    NORM1000 = "norm1000"
    TOKEN = "token"


Source = Annotated[Path, typer.Argument(help="A record file (JSONL).", show_default=False)]
SpaceOption = Annotated[Space | None, typer.Option("--coord-space", help="Space of records that do not name theirs; plain integers are refused without it.")]


Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that share the work; 0: one a processor, as far as the input is long enough.")]


def finish(output: Path, sentence: str, *, sources: Sequence[Path], workers: int = 1) -> None:
    """Write the card beside what a command wrote, and say what was done."""
    from coordexp.data.cards import write_card

    write_card(output, command=said_command(), sentence=sentence, sources=sources, workers=workers)
    typer.echo(f"wrote {output}: {sentence}")


def space_value(space: Space | None) -> CoordSpace | None:
    """The option as the core takes it."""
    return None if space is None else space.value
