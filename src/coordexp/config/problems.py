"""Values → typed configuration, or one sentence for every problem: dotted key, file and line, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from pydantic import ValidationError

from coordexp.config.schema import Setting, list_settings
from coordexp.config.sections import FileSection
from coordexp.config.unbuilt import find_unbuilt, show
from coordexp.config.yaml_source import KeyPath, Tree, Value, dotted
from coordexp.types.errors import ConfigError

M = TypeVar("M", bound=FileSection)


def validate(model: type[M], tree: Tree, *, source: str) -> M:
    """The configuration that `tree` holds; `source` names the file in messages about keys that are missing.

    Raises:
        ConfigError: lists every problem.
    """
    try:
        config = model.model_validate(tree.values)
    except ValidationError as error:
        found = [*_schema_problems(error, model, tree), *_passthrough_problems(model, tree)]
    else:
        found = [(_parts(problem.key), problem.what, problem.fix) for problem in config.problems()]
        found += [(_parts(row.key), f"{row.feature} is not supported by this version", row.fix) for row in find_unbuilt(config, model.unbuilt)]
        if not found:
            return config
    raise _as_error(list(dict.fromkeys(found)), tree, source)


Problem: TypeAlias = tuple[KeyPath, str, str | None]
"""Key, what is wrong, what to do."""


def _as_error(problems: Sequence[Problem], tree: Tree, source: str) -> ConfigError:
    order = {path: number for number, path in enumerate(tree.origins)}

    def line(problem: Problem) -> int:
        path = problem[0]
        return next((order[path[:end]] for end in range(len(path), 0, -1) if path[:end] in order), -1)

    errors = [ConfigError(what, where=_where(path, tree, source), fix=fix) for path, what, fix in sorted(problems, key=line)]
    if len(errors) == 1:
        return errors[0]
    return ConfigError(f"{len(errors)} problems" + "".join(f"\n  {error}" for error in errors), where=source)


def _where(path: KeyPath, tree: Tree, source: str) -> str:
    """`configs/a.yaml:12: training.max_steps`; the line of the nearest section when the key itself was not written."""
    for end in range(len(path), 0, -1):
        if path[:end] in tree.origins:
            return f"{tree.origins[path[:end]]}: {dotted(path)}"
    return f"{source}: {dotted(path)}"


def _parts(key: str) -> KeyPath:
    return tuple(key.split("."))


def _schema_problems(error: ValidationError, model: type[FileSection], tree: Tree) -> Iterator[Problem]:
    settings = list_settings(model)
    seen: set[tuple[KeyPath, str]] = set()
    for item in error.errors(include_url=False):
        kind = str(item["type"])
        path = tuple(item["loc"])
        if kind == "missing":
            yield path, "is required", f"give --{path[-1]}" if not tree.origins or all(origin.line is None for origin in tree.origins.values()) else "set it"
        elif kind == "extra_forbidden":
            yield path, *_unknown(path, model)
        elif kind != "passthrough":
            path = _written_part(path, tree)
            if (path, "type") not in seen:  # a union reports once for each of its members
                seen.add((path, "type"))
                yield path, *_type_sentence(kind, item.get("ctx", {}), item["input"], item["msg"], _find(path, settings))


def _passthrough_problems(model: type[FileSection], tree: Tree) -> Iterator[Problem]:
    for setting in list_settings(model):
        if setting.section is None or not setting.section.passthrough:
            continue
        values = tree.values.get(setting.key)
        if not isinstance(values, dict):
            continue
        for name, expected in setting.section.passthrough_problems(values):
            path = (setting.key, name)
            yield (path, *_unknown(path, model)) if expected is None else (path, f"expected {expected}, got {_shorten(values[name])}", None)


def _unknown(path: KeyPath, model: type[FileSection]) -> tuple[str, str]:
    return "unknown key", _nearest(path, model, list_settings(model))


def _written_part(path: KeyPath, tree: Tree) -> KeyPath:
    """Without the names of union members that pydantic appends."""
    node: Value = tree.values
    for depth, part in enumerate(path):
        if isinstance(node, dict) and part in node:
            node = node[str(part)]
        elif isinstance(node, list) and isinstance(part, int):
            node = node[part]
        else:
            return path[:depth]
    return path


def _nearest(path: KeyPath, model: type[FileSection], settings: Sequence[Setting]) -> str:
    name = str(path[-1])
    parent = dotted(tuple(part for part in path[:-1] if isinstance(part, str)))
    prefix = f"{parent}." if parent else ""
    siblings = {
        setting.key.removeprefix(prefix): setting for setting in settings if setting.key.startswith(prefix) and "." not in setting.key.removeprefix(prefix)
    }
    replaced = next(
        (setting.owner.replaced[name] for setting in siblings.values() if name in setting.owner.replaced), model.replaced.get(name) if not parent else None
    )
    if replaced is not None:
        return replaced
    passthrough = sorted({extra for setting in siblings.values() for extra in setting.owner.passthrough})
    elsewhere = [setting.key for setting in settings if setting.key.rpartition(".")[2] == name]
    close = difflib.get_close_matches(name, [*siblings, *passthrough], n=1, cutoff=0.8 if elsewhere else 0.6)
    if close or elsewhere:
        return f"did you mean {prefix + close[0] if close else elsewhere[0]}?"
    close = difflib.get_close_matches(name, [setting.key.rpartition(".")[2] for setting in settings], n=1, cutoff=0.8)
    if close:
        return f"did you mean {next(setting.key for setting in settings if setting.key.rpartition('.')[2] == close[0])}?"
    known = ", ".join(sorted(siblings)) if len(siblings) <= 12 else "those of 'coordexp config keys'"
    return f"known here: {known or 'nothing'}"


def _find(path: KeyPath, settings: Sequence[Setting]) -> Setting | None:
    key = dotted(tuple(part for part in path if isinstance(part, str)))
    return next((setting for setting in settings if setting.key == key), None)


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a section with 'key: value' lines",
    "model_type": "a section with 'key: value' lines",
    "model_attributes_type": "a section with 'key: value' lines",
    "too_short": "a longer list",
    "string_too_short": "a text that is not empty",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def _type_sentence(kind: str, context: Mapping[str, Any], value: Any, message: str, setting: Setting | None) -> tuple[str, str | None]:
    got = _shorten(value)
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {context[name]}, got {got}", None
    if kind == "literal_error" or (setting is not None and setting.choices and kind in _EXPECTED):
        choices = [show(choice) for choice in setting.choices] if setting is not None else []
        close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.6)
        return f"expected {_one_of(choices) or context.get('expected')}, got {got}", f"did you mean {close[0]}?" if close else None
    if kind in _EXPECTED:
        expected = _EXPECTED[kind] if setting is None or kind == "too_short" else setting.type_words or _EXPECTED[kind]
        fix = "put it in quotes" if expected == "a text" and isinstance(value, (int, float)) else None
        return f"expected {expected}, got {got}", fix
    return message.removeprefix("Value error, "), None


def _one_of(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}" if choices else ""


def _shorten(value: Any) -> str:
    text = (
        repr(value) if isinstance(value, str) else "a section" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else show(value)
    )
    return "nothing" if value is None else text if len(text) <= 60 else text[:57] + "..."
