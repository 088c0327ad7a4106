"""Files and overrides → one typed, frozen configuration that knows where each of its values was written.

Later wins: files of `extends` from left to right, the file itself, overrides from left to right.
Mappings merge key by key; lists and scalars are replaced.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from coordexp.config.keyed_lists import to_list, to_mapping
from coordexp.config.problems import validate
from coordexp.config.redact import redact
from coordexp.config.sections import FileSection
from coordexp.config.yaml_source import COMMAND_LINE, DEFAULT, KeyPath, Origin, Tree, Value, dotted, parse_scalar, read_yaml
from coordexp.types.errors import ConfigError

M = TypeVar("M", bound=FileSection)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that a configuration was read from. `sha256` is of the bytes that were read."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class Override:
    """One value that wins over the files. Example: `Override("infer.limit", 5, Origin("--limit"))`"""

    key: str
    value: Value
    origin: Origin = COMMAND_LINE


@dataclass(frozen=True, slots=True)
class Loaded(Generic[M]):
    """A configuration with its provenance."""

    config: M
    origins: Mapping[str, Origin]
    """Dotted key → where its value was written; a key that is absent has its default. See `origin`."""
    files: tuple[SourceFile, ...]
    """The file that was asked for first, then everything it extends; empty when only flags were given."""
    overrides: tuple[str, ...] = ()
    """As given on the command line, for the run's metadata."""

    @property
    def path(self) -> Path | None:
        return self.files[0].path if self.files else None

    def origin(self, key: str) -> Origin:
        return self.origins.get(key, DEFAULT)

    def resolved(self) -> dict[str, Any]:
        """Every setting with its value, defaults included, as JSON types; secrets replaced by `***`."""
        return redact(self.config.model_dump(mode="json", by_alias=True))


def load_config(path: str | Path | None, model: type[M], overrides: Sequence[str | Override] = ()) -> Loaded[M]:
    """Read `path` (and what it extends), apply overrides such as `training.max_steps=5`, check everything.

    Raises:
        ConfigError: one sentence for each problem: which key, where it was written, what to do.
    """
    parsed = [parse_override(item) if isinstance(item, str) else item for item in overrides]
    files: list[SourceFile] = []
    tree = Tree({})
    if path is not None:
        tree = _read_with_parents(Path(path), model, files, ())
    for override in parsed:
        tree = _merge(tree, _override_tree(override))
    source = shown_path(Path(path)) if path is not None else "command line"
    for key in model.keyed_lists:
        tree = to_list(tree, key=key)
    config = validate(model, tree, source=source)
    origins = {dotted(key): origin for key, origin in tree.origins.items()}
    return Loaded(config, origins, tuple(files), tuple(item for item in overrides if isinstance(item, str)))


def parse_override(text: str) -> Override:
    """`training.max_steps=5` → Override; the value is read as YAML.

    Raises:
        ConfigError: no `=`, or an empty part in the key.
    """
    key, separator, value = text.removeprefix("--").partition("=")
    if not separator or not key or not all(key.split(".")):
        raise ConfigError(f"cannot read the override '{text}'", where=str(COMMAND_LINE), fix="write section.key=value, for example training.max_steps=5")
    return Override(key, parse_scalar(value, source=f"command line: {key}"))


def shown_path(path: Path) -> str:
    """As the user would write it: relative to the current folder when it lies below it."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)


def _read_with_parents(path: Path, model: type[FileSection], files: list[SourceFile], stack: tuple[Path, ...]) -> Tree:
    source = shown_path(path)
    real = path.resolve()
    if real in stack:
        chain = " -> ".join(shown_path(item) for item in (*stack[stack.index(real) :], real))
        raise ConfigError(f"'extends' goes in a circle: {chain}", where=source, fix="remove one of these 'extends'")
    tree, data = read_yaml(path, source=source)
    if real not in {item.path.resolve() for item in files}:
        files.append(SourceFile(path, hashlib.sha256(data).hexdigest()))
    result = Tree({})
    for parent in _parents(tree, model, source):
        result = _merge(result, _read_with_parents(path.parent / parent, model, files, (*stack, real)))
    tree.values.pop("extends", None)
    for key, name in model.keyed_lists.items():
        tree = to_mapping(tree, key=key, name=name)
    return _merge(result, Tree(tree.values, {key: origin for key, origin in tree.origins.items() if key[0] != "extends"}))


def _parents(tree: Tree, model: type[FileSection], source: str) -> list[str]:
    if "extends" not in tree.values:
        return []
    where = f"{tree.origins[('extends',)]}: extends"
    if not model.allows_extends:
        raise ConfigError("this kind of file stands alone", where=where, fix="copy the settings into one file")
    value = tree.values["extends"]
    names = value if isinstance(value, list) else [value]
    result = [name for name in names if isinstance(name, str) and name]
    if not result or len(result) != len(names):
        raise ConfigError("expected a path or a list of paths", where=where, fix=f"paths count from the folder of {source}")
    return result


def _override_tree(override: Override) -> Tree:
    parts = tuple(override.key.split("."))
    values: dict[str, Value] = {parts[-1]: override.value}
    for part in reversed(parts[:-1]):
        values = {part: values}
    return Tree(values, {parts[: depth + 1]: override.origin for depth in range(len(parts))})


def _merge(base: Tree, top: Tree) -> Tree:
    """`top` wins; a section keeps the origin of its first mention, a value has that of its last."""
    origins = dict(base.origins)
    values = _merge_values(base.values, top.values, (), origins, top.origins)
    return Tree(values, origins)


def _merge_values(
    base: Mapping[str, Value], top: Mapping[str, Value], path: KeyPath, origins: dict[KeyPath, Origin], new: Mapping[KeyPath, Origin]
) -> dict[str, Value]:
    result = dict(base)
    for key, value in top.items():
        inner = (*path, key)
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            result[key] = _merge_values(below, value, inner, origins, new)
            continue
        for stale in [known for known in origins if known[: len(inner)] == inner]:
            del origins[stale]
        origins.update({known: origin for known, origin in new.items() if known[: len(inner)] == inner})
        result[key] = value
    return result
