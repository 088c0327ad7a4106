"""YAML text to values: scalars of YAML 1.2, lines of keys, and what is refused."""

from __future__ import annotations

import math

import pytest

from coordexp.config.yaml_source import Origin, parse_scalar, parse_yaml
from coordexp.types.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("-3", -3),
        ("0x10", 16),
        ("1_000", 1000),
        ("-.inf", -math.inf),
        ("true", True),
        ("no", "no"),
        ("off", "off"),
        ("2026-01-01", "2026-01-01"),
        ("1:30", "1:30"),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("[1, 2.5]", [1, 2.5]),
        ("http://127.0.0.1:8003", "http://127.0.0.1:8003"),
    ],
)
def test_a_scalar_is_read_as_yaml_1_2_says(text: str, value: object) -> None:
    assert parse_scalar(text, source="x") == value
    assert type(parse_scalar(text, source="x")) is type(value)


@pytest.mark.parametrize("text", ["a: " + "[" * 3000, "a: " + "{a: " * 3000, "a: " + "[" * 3000 + "]" * 3000])
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml(text, source="x")


def test_every_key_knows_its_line() -> None:
    tree = parse_yaml("a:\n  b: 1\n  c:\n    - x: 2\n", source="f.yaml")
    assert tree.origins[("a", "b")] == Origin("f.yaml", 2)
    assert tree.origins[("a", "c", 0, "x")] == Origin("f.yaml", 4)


def test_a_merge_key_gives_way_to_keys_of_its_own_mapping() -> None:
    tree = parse_yaml("base: &base {a: 1, b: 2}\nuser:\n  a: 3\n  <<: *base\n", source="f.yaml")
    assert tree.values["user"] == {"b": 2, "a": 3}
    assert tree.origins[("user", "a")] == Origin("f.yaml", 3)
    assert tree.origins[("user", "b")] == Origin("f.yaml", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: duplicate key 'a' (first on line 1); keep one of them"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: tag !!python/object:os.system is not allowed; write a plain value"),
        ("a: !mine x\n", "f.yaml:1: tag !mine is not allowed; write a plain value"),
        ("a: &x [*x]\n", "f.yaml:1: an anchor contains itself; remove the alias"),
        ("a: !!int word\n", "f.yaml:1: 'word' is not what its tag !!int says; write a plain value"),
        ("- a\n", "f.yaml:1: expected 'key: value' lines at the top of the file"),
        ("a: [1\nb: 2\n", "f.yaml:2: not valid YAML"),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be a word; write 'key: value'"),
        ("a: 1\n<<: 5\n", "f.yaml:2: '<<' needs a mapping; merge an anchor of a mapping"),
        ("a: \x07\n", "f.yaml: not valid YAML"),
    ],
    ids=["duplicate", "python-tag", "own-tag", "circle", "wrong-tag", "list", "bracket", "list-as-key", "merge", "control-character"],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, source="f.yaml")
    assert str(error.value).startswith(message)
