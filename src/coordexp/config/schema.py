"""Walks the schema: every setting with its key, type in words, default and meaning. Messages, `config show` and the reference page read it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from coordexp.config.sections import Section
from coordexp.config.unbuilt import show

REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a kind of file."""

    key: str
    """Dotted; items of a list of sections share the key of the list."""
    owner: type[Section]
    """The section class that declares it."""
    type_words: str
    """`a whole number`, `a list of numbers`, … ; empty for a section."""
    choices: tuple[Any, ...]
    default: str
    """As YAML spells it, or `required`."""
    meaning: str
    section: type[Section] | None
    """The class of the section behind this key, when it is one."""


@cache
def list_settings(model: type[Section]) -> tuple[Setting, ...]:
    """Every setting of `model`, sections before their members, in the order of the schema."""
    return tuple(_walk(model, ""))


def _walk(model: type[Section], prefix: str) -> Iterator[Setting]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        section = _section_of(field.annotation)
        words, choices = _describe(field.annotation)
        yield Setting(key, model, "" if section else words, choices, _default(field), " ".join((field.description or "").split()), section)
        if section is not None:
            yield from _walk(section, f"{key}.")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if isinstance(value, Section) else show(str(value) if isinstance(value, Path) else value)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone; `Annotated` is looked through."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)


def _section_of(annotation: Any) -> type[Section] | None:
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, Section):
            return member
        if get_origin(member) is tuple:
            inner = _section_of(get_args(member)[0])
            if inner is not None:
                return inner
    return None


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}


def _describe(annotation: Any) -> tuple[str, tuple[Any, ...]]:
    words: list[str] = []
    choices: list[Any] = []
    for member in _members(annotation):
        origin = get_origin(member)
        if member is type(None):
            continue
        if origin is Literal:
            choices += list(get_args(member))
        elif origin is tuple:
            inner, inner_choices = _describe(get_args(member)[0])
            words.append(f"a list of {' and '.join(show(choice) for choice in inner_choices) or _plural(inner)}")
        elif member in _WORDS:
            words.append(_WORDS[member])
        elif origin is dict or member is dict:
            words.append("a section with 'key: value' lines")
    spelled = [show(choice) for choice in choices] if words else []
    return " or ".join(dict.fromkeys([*words, *spelled])), () if words else tuple(choices)


def _plural(words: str) -> str:
    return {"a whole number": "whole numbers", "a number": "numbers", "a text": "texts", "a path": "paths"}.get(words, words)
