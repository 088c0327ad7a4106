"""What may stand between the quotes of a desc, against json, Python's UTF-8 decoder and `str.strip`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.codec.desc_automaton import _BLANK_CHARS, DescAutomaton, closed_desc, open_desc
from coordexp.codec.serialize import escape_desc

_PARTS = (b"\\", b'"', b"u", b"00", b"20", b"d83d", b"n", b"<", b"|", b" ", b"\n", b"\xe2", b"\x80", b"\x81", b"\xed\xa0", b"\xf0\x9f", "é🙂\u3000".encode())
SOME_BYTES = st.lists(st.sampled_from(_PARTS) | st.binary(min_size=1, max_size=2), max_size=8).map(b"".join)


def accepts(automaton: DescAutomaton, text: bytes) -> bool:
    state: int | None = 0
    for byte in text:
        state = automaton.steps[state].get(byte)
        if state is None:
            return False
    return automaton.distance[state] == 0


def is_desc(text: bytes) -> bool:
    try:
        value = json.loads(f'"{text.decode()}"')
    except ValueError:
        return False
    return bool(value.strip()) and b"<|" not in text


def test_the_blank_characters_are_those_of_str_strip() -> None:
    assert set(_BLANK_CHARS) == {char for char in range(0x110000) if not chr(char).strip()}


@given(SOME_BYTES)
def test_an_open_desc_is_what_json_reads_and_what_says_something(text: bytes) -> None:
    assert accepts(open_desc(), text) == is_desc(text)


@given(st.text(min_size=1, max_size=6))
def test_an_open_desc_can_be_whatever_the_serializer_writes(desc: str) -> None:
    assert accepts(open_desc(), escape_desc(desc).encode()) == bool(desc.strip())


@given(SOME_BYTES)
def test_every_beginning_ends_well_by_its_shortest_way(text: bytes) -> None:
    automaton, state, written = open_desc(), 0, b""
    for byte in text:
        if (following := automaton.steps[state].get(byte)) is None:
            break
        state, written = following, written + bytes([byte])
    for _ in range(automaton.distance[state]):
        written += bytes([automaton.closing[state]])
        state = automaton.steps[state][automaton.closing[state]]
    assert is_desc(written)


LABELS = ("cat", "cat tree", 'a "b"', "a\\", "<|im_end|>", "犬", "cat")


def test_a_closed_desc_is_one_of_its_labels_as_the_serializer_spells_it() -> None:
    automaton = closed_desc(LABELS)

    assert all(accepts(automaton, escape_desc(label).encode()) for label in LABELS)
    assert not any(accepts(automaton, text) for text in (b"", b"ca", b"cats", b"cat ", b"dog", b"<|im_end|>", b"\\u0063at"))


@pytest.mark.parametrize(("begun", "ended"), [(b"", b"cat"), (b"cat ", b"cat tree"), (b"a \\", b'a \\"b\\"')])
def test_a_closed_desc_is_ended_with_the_nearest_label(begun: bytes, ended: bytes) -> None:
    automaton, state = closed_desc(("cat", "cat tree", 'a "b"')), 0
    for byte in begun:
        state = automaton.steps[state][byte]
    while automaton.distance[state]:
        begun += bytes([automaton.closing[state]])
        state = automaton.steps[state][automaton.closing[state]]
    assert begun == ended
