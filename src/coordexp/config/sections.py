"""Building blocks of the schema: the base of every section and its scalar types. A value of the wrong type is an error, never converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from coordexp.config.unbuilt import Unbuilt

_SWITCH_WORDS = {"yes": True, "on": True, "no": False, "off": False}


def _read_switch(value: Any) -> Any:
    return _SWITCH_WORDS.get(value.lower(), value) if isinstance(value, str) else value


def _refuse_empty_path(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("expected a path, got an empty text")
    return value


def _check_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    if not kinds or len(set(kinds)) != len(kinds):
        raise ValueError("expected bbox_2d, poly or both, each once")
    return kinds


Text = Annotated[str, Strict(), Field(min_length=1)]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]
Positive = Annotated[int, Strict(), Field(ge=1)]
Number = Annotated[float, Strict(), AllowInfNan(False)]
NonNegative = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0)]
PositiveNumber = Annotated[float, Strict(), AllowInfNan(False), Field(gt=0)]
Share = Annotated[float, Strict(), AllowInfNan(False), Field(ge=0, le=1)]
Seed = Annotated[int, Strict(), Field(ge=0, le=2**32 - 1)]
"""What every generator of random numbers takes."""
Switch = Annotated[bool, BeforeValidator(_read_switch), Strict()]
"""true or false; yes, no, on, off are read too."""
FilePath = Annotated[Path, BeforeValidator(_refuse_empty_path)]
"""A path as the user wrote it: relative paths count from the folder where the command runs."""

GeometryKinds: TypeAlias = Annotated[tuple[Literal["bbox_2d", "poly"], ...], AfterValidator(_check_kinds)]


class Section(BaseModel):
    """A mapping of a configuration file. Unknown keys are errors; a built section never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, protected_namespaces=(), use_attribute_docstrings=True)

    passthrough: ClassVar[frozenset[str]] = frozenset()
    """Names that are accepted beside the declared fields (only `training` has some)."""
    replaced: ClassVar[dict[str, str]] = {}
    """Older names: what to write instead."""

    @classmethod
    def passthrough_problems(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
        """What is wrong with names that are not declared: (name, what was expected), or None for an unknown name."""
        yield from ()


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """Example: `KeyProblem("custom.train_jsonl", "is required", "name the training file")`"""

    key: str
    what: str
    fix: str | None = None


class FileSection(Section):
    """The top level of a kind of file."""

    unbuilt: ClassVar[tuple[Unbuilt, ...]] = ()
    """Settings that the schema knows and this version cannot do."""
    allows_extends: ClassVar[bool] = True
    keyed_lists: ClassVar[dict[str, str]] = {}
    """Top-level lists of sections that files merge entry by entry: key → name of the field that identifies an entry."""

    def problems(self) -> Iterator[KeyProblem]:
        """What is wrong between settings that are each valid alone."""
        yield from ()
