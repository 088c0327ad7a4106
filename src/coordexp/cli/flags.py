"""Flags → overrides of a configuration, so that a flag and a line of a file are checked by the same schema and named in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordexp.config.loading import Override


def read_path(text: str) -> Path:
    """The path of a flag. An empty text, which a variable of the shell that is not set leaves behind, would be the current folder."""
    if not text:
        import typer

        raise typer.BadParameter("expected a path, got an empty text")
    return Path(text)


def overrides_of(values: Mapping[str, tuple[str, Any]]) -> list[Override]:
    """`{"infer.limit": ("--limit", 5)}` → overrides that name the flag as their origin; None is a flag that was not given."""
    from coordexp.config.loading import Override
    from coordexp.config.yaml_source import Origin

    given = [(key, flag, str(value) if isinstance(value, Path) else value) for key, (flag, value) in values.items() if value is not None]
    return [Override(key, value, Origin(flag)) for key, flag, value in given]
