"""The loop guard over token ids: what loops is ended where the table says, and nothing else is."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.generation.repeat import RepeatGuard, loop_end
from coordexp.types.rollouts import RepeatLimits

LIMITS = RepeatLimits(min_new_tokens=0, max_consecutive_token_repeats=8, ngram_size=6, ngram_repeats=2)
BYTES = {number: bytes([number]) for number in range(256)}


def spell(text: str) -> list[int]:
    return list(text.encode())


@pytest.mark.parametrize(
    ("tokens", "end"),
    [
        pytest.param([1] * 20, 8, id="one token over and over"),
        pytest.param([9, 8, 7] + [1] * 20, 11, id="one token after a beginning"),
        pytest.param([1, 2] * 20, 12, id="a short piece, 12 tokens long"),
        pytest.param([1, 2, 3, 4, 5] * 20, 12, id="a piece whose length does not divide ngram_size"),
        pytest.param([1, 2, 3, 4, 5, 6] * 20, 12, id="the longest piece that is looked for"),
        pytest.param([1, 2, 3, 4, 5, 6, 7] * 20, None, id="a longer piece"),
        pytest.param([1, 1, 1, 1, 1, 1, 1, 2] * 2, None, id="one repetition short"),
        pytest.param(list(range(200)), None, id="nothing repeats"),
        pytest.param([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 7] * 2, None, id="two pieces that differ at the end"),
        pytest.param([], None, id="empty"),
    ],
)
def test_a_loop_is_ended_as_soon_as_it_is_one(tokens: list[int], end: int | None) -> None:
    assert loop_end(tokens, LIMITS) == end


def test_a_sequence_is_never_ended_before_the_least_length() -> None:
    assert loop_end([1] * 100, replace(LIMITS, min_new_tokens=50)) == 50
    assert loop_end([1] * 20 + list(range(100, 150)), replace(LIMITS, min_new_tokens=50)) is None


def test_objects_beyond_the_allowed_number_end_a_sequence_at_the_colon_of_their_key() -> None:
    text = "{" + ", ".join(f'"object_{n}": {{"desc": "object_9: x"}}' for n in range(1, 9)) + "}"
    limits = replace(LIMITS, ngram_size=200, max_object_keys=3)
    end = loop_end(spell(text), limits, piece_of=BYTES.__getitem__)
    assert text[:end] == text[: text.index('"object_4":') + len('"object_4":')]
    assert loop_end(spell(text), replace(limits, max_object_keys=8), piece_of=BYTES.__getitem__) is None


def test_keys_are_counted_across_any_tokenization() -> None:
    pieces = {0: b'{"object', 1: b"_", 2: b"1", 3: b'": ', 4: b'{}, "object_', 5: b'": {}, "object_3": {}'}
    guard = RepeatGuard(replace(LIMITS, max_object_keys=2), piece_of=pieces.__getitem__)
    assert [guard.push(token) for token in (0, 1, 2, 2, 3, 4, 2, 5)] == [False] * 7 + [True]


def test_a_guard_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="max_object_keys needs"):
        RepeatGuard(replace(LIMITS, max_object_keys=2))
    with pytest.raises(ValueError, match="no repetition"):
        RepeatGuard(replace(LIMITS, ngram_repeats=1))


def _ends_by_definition(tokens: list[int], limits: RepeatLimits) -> int | None:
    length = limits.ngram_size * limits.ngram_repeats
    for end in range(limits.min_new_tokens or 1, len(tokens) + 1):
        tail, run = tokens[max(0, end - length) : end], tokens[max(0, end - limits.max_consecutive_token_repeats) : end]
        is_run = len(run) == limits.max_consecutive_token_repeats and len(set(run)) == 1
        is_loop = len(tail) == length and any(tail[period:] == tail[:-period] for period in range(1, limits.ngram_size + 1))
        if is_run or is_loop:
            return end
    return None


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 3), st.integers(2, 9), st.integers(0, 12))
def test_the_guard_fires_exactly_where_the_definition_says(seed: int, size: int, repeats: int, run: int, least: int) -> None:
    generator = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < 60:
        piece = [generator.randrange(3) for _ in range(generator.randrange(1, 6))]
        tokens += piece * generator.randrange(1, 5)
    limits = RepeatLimits(min_new_tokens=least, max_consecutive_token_repeats=run, ngram_size=size, ngram_repeats=repeats)
    assert loop_end(tokens, limits) == _ends_by_definition(tokens, limits)


@given(st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40), st.lists(st.integers(0, 2), max_size=40))
def test_a_copy_goes_its_own_way(common: list[int], first: list[int], second: list[int]) -> None:
    guard = RepeatGuard(LIMITS)
    for token in common:
        guard.push(token)
    twin = guard.copy()
    ends = [[guard.push(token) for token in first], [twin.push(token) for token in second]]
    for own, heard in zip((first, second), ends, strict=True):
        fresh = RepeatGuard(LIMITS)
        assert [fresh.push(token) for token in [*common, *own]][len(common) :] == heard
