"""Flags → overrides of a configuration, so that a flag and a line of a file are checked by the same schema and named in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordexp.config.loading import Override


def overrides_of(values: Mapping[str, tuple[str, Any]]) -> list[Override]:
    """`{"infer.limit": ("--limit", 5)}` → overrides that name the flag as their origin; None is a flag that was not given."""
    from coordexp.config.loading import Override
    from coordexp.config.yaml_source import Origin

    given = [(key, flag, str(value) if isinstance(value, Path) else value) for key, (flag, value) in values.items() if value is not None]
    return [Override(key, value, Origin(flag)) for key, flag, value in given]
