r"""One pass over JSON text: what is complete, where it stands, and where the text stops being JSON. Strict parse and salvage both read its tree.

Strict RFC 8259 (no NaN, no raw control character in a string), except for a comma before a closing bracket when that is allowed. Strings and escapes are
respected, nesting is a list and not recursion, and no lexeme is read twice, so time is linear and depth is unlimited.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

_SPACE = r"[ \t\n\r]*+"
_STRING_BODY = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_LEXEME = re.compile(rf'{_SPACE}(?:([{{}}\[\],:])|({_STRING_BODY}")|((?:{_NUMBER}|true|false|null)(?![-+.0-9a-zA-Z])))')
_UNFINISHED = re.compile(rf"{_SPACE}({_STRING_BODY}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?|[-+.0-9a-zA-Z]*+)\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Kind(Enum):
    OBJECT = "object"
    ARRAY = "array"
    STRING = "string"
    SCALAR = "scalar"
    """Number, true, false or null."""


class Stop(Enum):
    COMPLETE = "complete"
    """The value ended."""
    TRUNCATED = "truncated"
    """The text ended inside the value."""
    ERROR = "error"
    """The text goes on with something that JSON does not allow there."""


@dataclass(slots=True)
class Node:
    """A value and where it stands. Example: in `{"a": [1]}` the array has `start=6`, `end=9`, `key=(1, 4)`."""

    kind: Kind
    start: int
    end: int = -1
    """One past the last character; -1 while the value is open."""
    key: tuple[int, int] | None = None
    """Span of the member's key, quotes included; None for the root and in arrays."""
    children: list[Node] = field(default_factory=list["Node"])
    """In order of appearance; the last one may be open."""

    @property
    def is_closed(self) -> bool:
        return self.end >= 0

    def walk(self) -> Iterator[Node]:
        """This node and all below it, in order of appearance."""
        waiting: list[Node] = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True, slots=True)
class Scan:
    """What one value's text holds."""

    root: Node | None
    """None when no value begins here."""
    stop: Stop
    position: int
    """One past the value when complete; else the first character that was not taken."""


class _Expect(Enum):
    VALUE = 0
    FIRST_VALUE = 1
    """A value, or the end of an empty array."""
    KEY = 2
    FIRST_KEY = 3
    """A key, or the end of an empty object."""
    COLON = 4
    COMMA = 5
    """A comma or the end of the container."""


_CLOSES = {"}": Kind.OBJECT, "]": Kind.ARRAY}
_MAY_BE_EMPTY = {Kind.OBJECT: _Expect.FIRST_KEY, Kind.ARRAY: _Expect.FIRST_VALUE}
_AFTER_COMMA = {Kind.OBJECT: _Expect.KEY, Kind.ARRAY: _Expect.VALUE}


def scan_value(text: str, start: int = 0, *, allow_trailing_commas: bool = False) -> Scan:
    """Read the JSON value that begins at `start` (or after white space there).

    Example: `scan_value('{"a": [1, 2')` stops as TRUNCATED with two open nodes; the 2 is open too, since it might go on as 23.
    """
    builder = _TreeBuilder(text, allow_trailing_commas=allow_trailing_commas)
    position = start
    while (found := _LEXEME.match(text, position)) is not None:
        if not builder.take(found):
            return builder.failed(found.start(found.lastindex or 0))
        position = found.end()
        if not builder.is_open:
            return Scan(root=builder.root, stop=Stop.COMPLETE, position=position)
    rest = _UNFINISHED.match(text, position)
    if rest is not None and builder.begin_unfinished(rest):
        return Scan(root=builder.root, stop=Stop.TRUNCATED, position=len(text))
    return builder.failed(rest.start(1) if rest is not None else _after_space(text, position))


def read_string(text: str, span: tuple[int, int]) -> str:
    """The value of a string at `span`, quotes included; a lone surrogate escape, which no file could hold, reads as U+FFFD."""
    raw = text[span[0] + 1 : span[1] - 1]
    if "\\" not in raw:
        return raw
    return _SURROGATE.sub("\ufffd", json.loads(f'"{raw}"'))


def _after_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\n\r":
        position += 1
    return position


class _TreeBuilder:
    """Takes lexemes one by one and says whether JSON allows them."""

    def __init__(self, text: str, *, allow_trailing_commas: bool) -> None:
        self.root: Node | None = None
        self.is_open = True
        self._num_chars = len(text)
        self._allow_trailing_commas = allow_trailing_commas
        self._stack: list[Node] = []
        self._expect = _Expect.VALUE
        self._key: tuple[int, int] | None = None

    def take(self, found: re.Match[str]) -> bool:
        """False when the lexeme may not stand here; nothing has changed then."""
        mark = found[1]
        if mark is None:
            is_string = found[2] is not None
            start, end = found.span(2 if is_string else 3)
            return self._take_leaf(start, end, is_string=is_string)
        if mark == ",":
            return self._take_comma()
        if mark == ":":
            return self._take_colon()
        if mark in _CLOSES:
            return self._close(_CLOSES[mark], found.end(1))
        return self._take_open(Kind.OBJECT if mark == "{" else Kind.ARRAY, found.start(1))

    def begin_unfinished(self, rest: re.Match[str]) -> bool:
        """Note the value that the end of the text cuts short; False when nothing may begin here."""
        is_string = rest[1].startswith('"')
        if not rest[1] or (is_string and self._expect in (_Expect.KEY, _Expect.FIRST_KEY)):
            return True
        if self._expect not in (_Expect.VALUE, _Expect.FIRST_VALUE):
            return False
        self._attach(Node(Kind.STRING if is_string else Kind.SCALAR, rest.start(1)))
        return True

    def failed(self, position: int) -> Scan:
        """The scan that ends here with an error; a key whose value is no JSON at all gets an open scalar in its place."""
        if self._key is not None and self._expect is _Expect.VALUE:
            self._attach(Node(Kind.SCALAR, position))
        return Scan(root=self.root, stop=Stop.ERROR, position=position)

    def _take_leaf(self, start: int, end: int, *, is_string: bool) -> bool:
        if is_string and self._expect in (_Expect.KEY, _Expect.FIRST_KEY):
            self._key, self._expect = (start, end), _Expect.COLON
            return True
        if self._expect not in (_Expect.VALUE, _Expect.FIRST_VALUE):
            return False
        may_go_on = not is_string and end == self._num_chars and bool(self._stack)
        self._attach(Node(Kind.STRING if is_string else Kind.SCALAR, start, -1 if may_go_on else end))
        self._value_ended()
        return True

    def _take_open(self, kind: Kind, start: int) -> bool:
        if self._expect not in (_Expect.VALUE, _Expect.FIRST_VALUE):
            return False
        node = Node(kind, start)
        self._attach(node)
        self._stack.append(node)
        self._expect = _MAY_BE_EMPTY[kind]
        return True

    def _close(self, kind: Kind, end: int) -> bool:
        if not self._stack or self._stack[-1].kind is not kind:
            return False
        is_after_comma = self._expect is _AFTER_COMMA[kind]
        if self._expect not in (_Expect.COMMA, _MAY_BE_EMPTY[kind]) and not (is_after_comma and self._allow_trailing_commas):
            return False
        self._stack.pop().end = end
        self._value_ended()
        return True

    def _take_comma(self) -> bool:
        if self._expect is not _Expect.COMMA:
            return False
        self._expect = _AFTER_COMMA[self._stack[-1].kind]
        return True

    def _take_colon(self) -> bool:
        if self._expect is not _Expect.COLON:
            return False
        self._expect = _Expect.VALUE
        return True

    def _attach(self, node: Node) -> None:
        node.key, self._key = self._key, None
        if self._stack:
            self._stack[-1].children.append(node)
        else:
            self.root = node

    def _value_ended(self) -> None:
        self.is_open = bool(self._stack)
        self._expect = _Expect.COMMA
