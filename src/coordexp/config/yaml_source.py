"""YAML text → plain values with the line of every key. Safe YAML only: no tags of one's own, no duplicate keys.

Scalars are read by the rules of YAML 1.2: `1e-4` is a number, `no` and `on` are words, `2026-01-01` and `1:30` are words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import yaml

from coordexp.types.errors import ConfigError, first_line
from coordexp.types.yaml_limits import MAX_BYTES, describe_excess

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
KeyPath: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written. Examples: `configs/base.yaml:12`, `command line`, `--limit`, `default`."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


DEFAULT = Origin("default")
COMMAND_LINE = Origin("command line")


@dataclass(frozen=True, slots=True)
class Tree:
    """Values of one or several files, and where each key was written."""

    values: dict[str, Value]
    origins: dict[KeyPath, Origin] = field(default_factory=dict[KeyPath, Origin])


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+0123456789."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))  # pyright: ignore[reportUnknownMemberType]

_BOOLS = {"true": True, "false": False}
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


def dotted(path: KeyPath) -> str:
    """`("servers", 0, "base_url")` → `servers[0].base_url`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def parse_yaml(text: str, *, source: str) -> Tree:
    """The mapping that `text` holds.

    Raises:
        ConfigError: not YAML, not a mapping, a duplicate key, a tag, an anchor that contains itself.
    """
    node = _compose(text, source)
    if node is None:
        return Tree({})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError("expected 'key: value' lines at the top of the file", where=f"{source}:{node.start_mark.line + 1}")
    builder = _Builder(source)
    values = builder.mapping(node, ())
    return Tree(values, builder.origins)


def parse_scalar(text: str, *, source: str) -> Value:
    """The value on the right of `key=value`: a YAML scalar, or a list or mapping in brackets.

    Raises:
        ConfigError: as `parse_yaml`.
    """
    node = _compose(text, source)
    return None if node is None else _Builder(source).value(node, ())


def read_yaml(path: Path, *, source: str) -> tuple[Tree, bytes]:
    """The values of a file and its bytes.

    Raises:
        ConfigError: the file cannot be read or is not a mapping in YAML.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"is larger than {MAX_BYTES >> 20} MiB", where=source, fix="name a file with settings")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("no such file", where=source, fix="check the path") from None
    except IsADirectoryError:
        raise ConfigError("is a folder", where=source, fix="name a YAML file") from None
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=source) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=source, fix="name a YAML file") from error
    return parse_yaml(text, source=source), data


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {first_line(error)}", where=source) from error
    try:
        node = loader.get_single_node()
        excess = None if node is None else describe_excess(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"not valid YAML: {error.problem or error.context}", where=f"{source}:{line}", fix="check indentation, quotes and brackets"
        ) from error
    except RecursionError as error:
        raise ConfigError("nested too deeply", where=source, fix="a setting is a few levels deep: check the brackets") from error
    finally:
        loader.dispose()
    if excess is not None:
        raise ConfigError(excess, where=source, fix="write the values out")
    return node


class _Builder:
    """Turns nodes into values and notes the line of every key on the way."""

    def __init__(self, source: str) -> None:
        self.origins: dict[KeyPath, Origin] = {}
        self._source = source
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Value:
        if node.tag not in _PLAIN_TAGS:
            raise self._error(node, f"tag {_short_tag(node.tag)} is not allowed", "write a plain value")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            raise self._error(node, "an anchor contains itself", "remove the alias")
        self._open.add(id(node))
        try:
            return self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        finally:
            self._open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Value]:
        merged: dict[str, Value] = {}
        own: dict[str, Value] = {}
        lines: dict[str, int] = {}
        pairs = [(key, value) for key, value in node.value if key.tag != _MERGE]
        for _, value_node in [pair for pair in node.value if pair[0].tag == _MERGE]:
            merged = {**merged, **self._merged(value_node, path)}
        if merged:
            self._forget(path, {self._key(key) for key, _ in pairs})
        for key_node, value_node in pairs:
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                raise self._error(key_node, f"duplicate key '{key}' (first on line {lines[key]})", "keep one of them")
            lines[key] = line
            inner = (*path, key)
            self.origins[inner] = Origin(self._source, line)
            own[key] = self.value(value_node, inner)
        return {**merged, **own}

    def _forget(self, path: KeyPath, keys: set[str]) -> None:
        """The lines that a merged mapping noted for keys, and below them, that the mapping at `path` has itself."""
        depth = len(path)
        for stale in [known for known in self.origins if len(known) > depth and known[:depth] == path and known[depth] in keys]:
            del self.origins[stale]

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Value]:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        result: dict[str, Value] = {}
        for part in reversed(parts):  # the earlier mapping of a merge list wins
            if not isinstance(part, yaml.MappingNode):
                raise self._error(part, "'<<' needs a mapping", "merge an anchor of a mapping")
            value = self.value(part, path)
            assert isinstance(value, dict)
            result = {**result, **value}
        return result

    def _sequence(self, node: yaml.Node, path: KeyPath) -> list[Value]:
        items: list[Value] = []
        for index, item in enumerate(node.value):
            self.origins[(*path, index)] = Origin(self._source, item.start_mark.line + 1)
            items.append(self.value(item, (*path, index)))
        return items

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key must be a word", "write 'key: value'")
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode) -> Value:
        text = str(node.value)
        digits = text.lower().replace("_", "")
        try:
            match node.tag.rpartition(":")[2]:
                case "null":
                    return None
                case "bool":
                    return _BOOLS[digits]
                case "int":
                    return int(digits, 16 if "x" in digits else 10)
                case "float":
                    return float(digits.replace(".inf", "inf").replace(".nan", "nan"))
                case _:
                    return text
        except (KeyError, ValueError):
            raise self._error(node, f"'{text}' is not what its tag {_short_tag(node.tag)} says", "write a plain value") from None

    def _error(self, node: yaml.Node, what: str, fix: str) -> ConfigError:
        return ConfigError(what, where=f"{self._source}:{node.start_mark.line + 1}", fix=fix)


def _short_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
