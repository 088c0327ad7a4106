"""What the schema knows and this version cannot do yet: one row a setting. Such a setting is an error with a sentence, never ignored.

A row goes when its feature arrives. `example` is a value that the row refuses; tests and documentation read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from coordexp.config.yaml_source import Value


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """Example: `Unbuilt("tuner.use_dora", (False,), "training with DoRA", True)`"""

    key: str
    supported: tuple[Value, ...]
    """Values that work; the first one is proposed. None stands for leaving the key out."""
    feature: str
    example: Value

    @property
    def fix(self) -> str:
        value = self.supported[0]
        return "remove it" if value is None else f"remove it or set it to {show(value)}"


def show(value: Any) -> str:
    """A value as YAML spells it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'" if value in {"", "no", "off", "yes", "on", "null", "true", "false"} else value
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"  # pyright: ignore[reportUnknownVariableType]
    return str(value)


def find_unbuilt(config: BaseModel, rows: Sequence[Unbuilt]) -> Iterator[Unbuilt]:
    """The rows that `config` would need."""
    for row in rows:
        value = _look_up(config, row.key.split("."))
        if value is not None and _plain(value) not in [_plain(item) for item in row.supported]:
            yield row


def _look_up(node: Any, parts: Sequence[str]) -> Any:
    """None when the key, or a section above it, is absent."""
    for part in parts:
        if isinstance(node, BaseModel):
            node = getattr(node, part, None)
        elif isinstance(node, Mapping):
            node = node.get(part)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        else:
            return None
    return node  # pyright: ignore[reportUnknownVariableType]


def _plain(value: Any) -> Any:
    """Type and value, so that `0` is not taken for `false`; a section by its presence."""
    if isinstance(value, BaseModel):
        return "section"
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return (isinstance(value, bool), value)


TRAIN: tuple[Unbuilt, ...] = (
    Unbuilt("training.deepspeed", (None,), "DeepSpeed (it steps its engine inside every backward: wrong with several packs a step)", "zero2.json"),
)
