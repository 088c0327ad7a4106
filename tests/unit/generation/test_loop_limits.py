"""The server's loop detection is vLLM's, written out here: it may fire only where our guard has fired."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.loop_limits import cut_loop, server_repetition
from coordexp.generation.repeat import loop_end
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.processor import load_processor
from coordexp.types.rollouts import GenerationSample, RepeatLimits


def server_end(ids: list[int], detection: dict[str, int]) -> int | None:
    """Tokens that vLLM would have generated when it ends the sequence (`check_sequence_repetition`)."""
    for length in range(1, len(ids) + 1):
        for size in range(max(1, detection["min_pattern_size"]), detection["max_pattern_size"] + 1):
            tail = ids[max(0, length - size * detection["min_count"]) : length]
            if len(tail) == size * detection["min_count"] and all(token == tail[place % size] for place, token in enumerate(tail)):
                return length
    return None


limits = st.builds(
    RepeatLimits,
    min_new_tokens=st.integers(0, 20),
    max_consecutive_token_repeats=st.just(10**6),
    ngram_size=st.integers(1, 6),
    ngram_repeats=st.integers(2, 4),
)


@given(limits, st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), min_size=1, max_size=6))
def test_the_server_lets_through_what_our_guard_would(chosen: RepeatLimits, start: list[int], piece: list[int]) -> None:
    ids = start + piece * 40
    ours, servers = loop_end(ids, chosen), server_end(ids, server_repetition(chosen))
    assert servers is None or (ours is not None and ours <= servers)


@pytest.mark.parametrize("size", range(1, 7))
def test_a_loop_of_every_length_is_found_by_the_server_too(size: int) -> None:
    chosen = RepeatLimits(min_new_tokens=30, ngram_size=6, ngram_repeats=2, max_consecutive_token_repeats=10**6)
    piece = random.Random(size).sample(range(100), size)
    assert server_end(piece * 60, server_repetition(chosen)) is not None


def test_an_answer_is_cut_behind_the_token_at_which_the_guard_fires() -> None:
    tokenizer = TextTokenizer.of(load_processor(tiny_checkpoint()).tokenizer)
    sample = GenerationSample(prompt_ids=(), response_ids=(9, *((5, 7) * 10)), text="", finish_reason="length", seed=0)
    cut = cut_loop(sample, RepeatLimits(min_new_tokens=0, ngram_size=2, ngram_repeats=3), tokenizer=tokenizer)

    assert cut.response_ids == (9, 5, 7, 5, 7, 5, 7)
    assert cut.finish_reason == "repeat"
