r"""What may stand between the quotes of a desc, byte by byte. Two kinds:

- `open_desc()`: any JSON string that is valid UTF-8 and says something (`str.strip` leaves a character), with `<|` only as `\u003c|`: what is spelled like a
  special token would be read as one;
- `closed_desc(labels)`: exactly these names, escaped as the serializer does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from coordexp.codec.serialize import escape_desc

QUOTE = ord('"')
_BLANK_CHARS = (*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
"""What `str.strip` takes away; all of them have four hex digits."""
_BLANK_BYTES = tuple(chr(char).encode() for char in _BLANK_CHARS)
_BLANK_HEX = tuple(f"{char:04x}".encode() for char in _BLANK_CHARS)
_HEX = frozenset(b"0123456789abcdefABCDEF")
_SIMPLE_ESCAPES = frozenset(b'"\\/bfnrt')
_BLANK_ESCAPES = frozenset(b"fnrt")
_PREFERRED = bytes(range(ord("a"), ord("z") + 1)) + b"0123456789" + bytes(range(256))
"""A desc that has to end soon is ended with letters where there is a choice."""

State = TypeVar("State")


@dataclass(frozen=True, eq=False)
class DescAutomaton:
    """State 0 is the start. Example: `automaton.steps[0].get(ord("c"))` is the state after `c`, or None when no desc begins so."""

    steps: Sequence[Mapping[int, int]]
    """For each state: what follows it, by byte."""
    distance: Sequence[int]
    """For each state: bytes that are missing at least until the closing quote may follow; 0: it may."""
    closing: Sequence[int]
    """For each state: the byte of the shortest way there; the quote where it may follow."""

    @cached_property
    def table(self) -> npt.NDArray[np.int16]:
        """[states, 256] the states that follow; -1: none."""
        table = np.full((len(self.steps), 256), -1, dtype=np.int16)
        for state, steps in enumerate(self.steps):
            table[state, list(steps)] = list(steps.values())
        return table


@cache
def open_desc() -> DescAutomaton:
    """Any desc."""
    return _number((True, "text", b""), _steps_of_open, may_end=lambda state: state[:2] in ((False, "text"), (False, "less")))


def closed_desc(labels: Iterable[str]) -> DescAutomaton:
    """Only these names; one that is given twice counts once."""
    names = sorted({escape_desc(label).encode() for label in labels})
    following: dict[bytes, dict[int, bytes]] = {name: {} for name in names}
    for name in names:
        for length in range(len(name)):
            following.setdefault(name[:length], {})[name[length]] = name[: length + 1]
    return _number(b"", following.__getitem__, may_end=frozenset(names).__contains__)


_OpenState = tuple[bool, str, bytes]
"""(nothing was said yet, where we are, what is needed to go on): `text`, `less` (after `<`), `escape`, `hex` (digits so far, one byte for each when it no
longer matters which), `utf8` (first bytes of a character that may be blank), `rest` (lowest and highest next byte, number of bytes after it)."""


def _steps_of_open(state: _OpenState) -> dict[int, _OpenState]:
    return {byte: following for byte in range(256) if (following := _next_of_open(state, byte)) is not None}


def _next_of_open(state: _OpenState, byte: int) -> _OpenState | None:
    is_blank, place, detail = state
    if place == "escape":
        if byte == ord("u"):
            return is_blank, "hex", b""
        return (is_blank and byte in _BLANK_ESCAPES, "text", b"") if byte in _SIMPLE_ESCAPES else None
    if place == "hex":
        return _after_hex(is_blank, detail, byte)
    if place == "utf8":
        return _after_bytes(detail + bytes([byte]), is_blank=is_blank)
    if place == "rest":
        low, high, missing = detail
        if not low <= byte <= high:
            return None
        return (False, "rest", bytes((0x80, 0xBF, missing - 1))) if missing else (False, "text", b"")
    return _after_text(state, byte)


def _after_text(state: _OpenState, byte: int) -> _OpenState | None:
    if byte < 0x20 or byte == QUOTE or (state[1] == "less" and byte == ord("|")):
        return None
    if byte == ord("\\"):
        return state[0], "escape", b""
    if byte >= 0x80:
        return _after_bytes(bytes([byte]), is_blank=state[0])
    return state[0] and byte == ord(" "), "less" if byte == ord("<") else "text", b""


def _after_hex(is_blank: bool, digits: bytes, byte: int) -> _OpenState | None:
    if byte not in _HEX:
        return None
    grown = digits + bytes([byte]).lower()
    if not (is_blank and any(known.startswith(grown) for known in _BLANK_HEX)):
        is_blank, grown = False, b"-" * len(grown)
    return (is_blank, "hex", grown) if len(grown) < 4 else (is_blank, "text", b"")


def _after_bytes(start: bytes, *, is_blank: bool) -> _OpenState | None:
    """After the first bytes of a character of several bytes; RFC 3629."""
    if is_blank and start in _BLANK_BYTES:
        return True, "text", b""
    if is_blank and any(known.startswith(start) for known in _BLANK_BYTES):
        return True, "utf8", start
    rest = _rest_of(start[0])
    for byte in start[1:]:
        low, high, missing = rest or (1, 0, 0)
        if not low <= byte <= high:
            return None
        if not missing:
            return False, "text", b""
        rest = (0x80, 0xBF, missing - 1)
    return None if rest is None else (False, "rest", bytes(rest))


def _rest_of(lead: int) -> tuple[int, int, int] | None:
    """Lowest and highest second byte, and how many follow it."""
    if 0xC2 <= lead <= 0xDF:
        return 0x80, 0xBF, 0
    if 0xE0 <= lead <= 0xEF:
        return (0xA0 if lead == 0xE0 else 0x80), (0x9F if lead == 0xED else 0xBF), 1
    if 0xF0 <= lead <= 0xF4:
        return (0x90 if lead == 0xF0 else 0x80), (0x8F if lead == 0xF4 else 0xBF), 2
    return None


def _number(start: State, steps_of: Callable[[State], Mapping[int, State]], *, may_end: Callable[[State], bool]) -> DescAutomaton:
    """Number the states that can be reached, and find the shortest way out of each."""
    numbers: dict[State, int] = {start: 0}
    waiting: deque[State] = deque([start])
    steps: list[dict[int, int]] = []
    while waiting:
        following = steps_of(waiting.popleft())
        for state in following.values():
            if state not in numbers:
                numbers[state] = len(numbers)
                waiting.append(state)
        steps.append({byte: numbers[state] for byte, state in following.items()})
    return DescAutomaton(steps, *_ways_out(steps, ends=[number for state, number in numbers.items() if may_end(state)]))


def _ways_out(steps: Sequence[Mapping[int, int]], *, ends: Sequence[int]) -> tuple[list[int], list[int]]:
    before: list[list[int]] = [[] for _ in steps]
    for state, following in enumerate(steps):
        for target in following.values():
            before[target].append(state)
    distance = dict.fromkeys(ends, 0)
    waiting = deque(ends)
    while waiting:
        target = waiting.popleft()
        for state in before[target]:
            if state not in distance:
                distance[state] = distance[target] + 1
                waiting.append(state)
    closing = [
        QUOTE if distance[state] == 0 else min(following, key=lambda byte: (distance[following[byte]], _PREFERRED.index(byte)))
        for state, following in enumerate(steps)
    ]
    return [distance[state] for state in range(len(steps))], closing
