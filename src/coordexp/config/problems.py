"""Values → typed configuration, or one sentence for every problem: dotted key, file and line, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from coordexp.config.schema import Setting, list_settings
from coordexp.config.sections import FileSection
from coordexp.config.unbuilt import find_unbuilt, show
from coordexp.config.yaml_source import KeyPath, Tree, dotted
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
        raise _as_error(list(_schema_problems(error, model, tree, source)), source) from None
    problems = [ConfigError(problem.what, where=_where(_parts(problem.key), tree, source), fix=problem.fix) for problem in config.problems()]
    problems += [
        ConfigError(f"{row.feature} is not supported by this version", where=_where(_parts(row.key), tree, source), fix=row.fix)
        for row in find_unbuilt(config, model.unbuilt)
    ]
    if problems:
        raise _as_error(problems, source)
    return config


def _as_error(problems: Sequence[ConfigError], source: str) -> ConfigError:
    unique = list(dict.fromkeys(str(problem) for problem in problems))
    if len(unique) == 1:
        return problems[0]
    return ConfigError(f"{len(unique)} problems" + "".join(f"\n  {line}" for line in unique), where=source)


def _where(path: KeyPath, tree: Tree, source: str) -> str:
    """`configs/a.yaml:12: training.max_steps`; the line of the nearest section when the key itself was not written."""
    for end in range(len(path), 0, -1):
        if path[:end] in tree.origins:
            return f"{tree.origins[path[:end]]}: {dotted(path)}"
    return f"{source}: {dotted(path)}"


def _parts(key: str) -> KeyPath:
    return tuple(key.split("."))


def _schema_problems(error: ValidationError, model: type[FileSection], tree: Tree, source: str) -> Iterator[ConfigError]:
    settings = list_settings(model)
    seen: set[tuple[KeyPath, str]] = set()
    for item in error.errors(include_url=False):
        kind = str(item["type"])
        path = tuple(item["loc"])
        if kind not in {"missing", "extra_forbidden"}:
            path = _written_part(path, tree)
        where = _where(path, tree, source)
        if kind == "extra_forbidden":
            what, fix = "unknown key", _nearest(path, model, settings)
        elif kind == "missing":
            what, fix = "is required", "set it"
        else:
            setting = _find(path, settings)
            what, fix = _type_sentence(kind, item.get("ctx", {}), item["input"], item["msg"], setting)
        if (path, kind if kind in {"missing", "extra_forbidden"} else "type") in seen:
            continue  # a union reports once for each of its members
        seen.add((path, kind if kind in {"missing", "extra_forbidden"} else "type"))
        yield ConfigError(what, where=where, fix=fix)


def _written_part(path: KeyPath, tree: Tree) -> KeyPath:
    """Without the names of union members that pydantic appends."""
    for end in range(len(path), 0, -1):
        if path[:end] in tree.origins:
            return path[:end]
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
    close = difflib.get_close_matches(name, [*siblings, *passthrough], n=1, cutoff=0.6)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    elsewhere = [setting.key for setting in settings if setting.key.rpartition(".")[2] == name]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
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
        expected = _EXPECTED[kind] if setting is None else setting.type_words or _EXPECTED[kind]
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
