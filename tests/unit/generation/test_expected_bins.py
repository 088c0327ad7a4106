"""The expectation stays within one mode, whatever the others hold."""

from __future__ import annotations

import numpy as np
import pytest

from coordexp.codec.pieces import decode_pieces
from coordexp.codec.salvage import salvage_text
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.expected_bins import expected_values
from coordexp.types.rollouts import TokenTrace

ANSWER = '{"object_1": {"desc": "cat", "bbox_2d": ["<|coord_100|>", "<|coord_200|>", "<|coord_999|>", "<|coord_0|>"]}}'


def expected(make_bpe, distributions: list[dict[int, float]], *, window: int = 24) -> tuple[float, ...]:
    tokenizer = TextTokenizer.of(make_bpe())
    ids = tokenizer.encode(ANSWER).ids
    pieces = decode_pieces(ids, tokenizer=tokenizer)
    (item,) = salvage_text(ANSWER).objects
    trace = [TokenTrace(-0.1) for _ in ids]
    for chars, distribution in zip(item.coord_chars, distributions, strict=True):
        bins = tuple(sorted(distribution))
        trace[pieces.token_span(*chars)[0]] = TokenTrace(-0.1, bins, tuple(distribution[k] for k in bins))
    return expected_values(item, pieces=pieces, trace=trace, window=window)


def test_it_is_the_mean_around_the_most_probable_bin(make_bpe) -> None:
    near, far = {99: 0.2, 100: 0.4, 102: 0.2}, {200: 0.55, 800: 0.45}
    border, single = {999: 0.5, 998: 0.5}, {0: 1.0}
    assert expected(make_bpe, [near, far, border, single]) == pytest.approx((100.25, 200.0, 998.5, 0.0), abs=1e-4)


def test_a_wider_window_takes_in_more(make_bpe) -> None:
    slots = [{100: 0.6, 130: 0.4}] * 4
    assert expected(make_bpe, slots)[0] == 100.0
    assert expected(make_bpe, slots, window=30)[0] == pytest.approx(112.0)


def test_a_full_distribution_equals_numpy(make_bpe) -> None:
    rng = np.random.default_rng(0)
    slots = []
    for _ in range(4):
        logits = rng.normal(size=1000) * 3
        probs = np.exp(logits) / np.exp(logits).sum()
        slots.append({k: float(p) for k, p in enumerate(probs)})
    found = expected(make_bpe, slots)
    for slot, value in zip(slots, found, strict=True):
        mode = max(slot, key=slot.__getitem__)
        inside = [k for k in slot if abs(k - mode) <= 24]
        assert value == pytest.approx(sum(k * slot[k] for k in inside) / sum(slot[k] for k in inside), abs=1e-4)


def test_numbers_that_are_no_coordinate_token_stay(make_bpe) -> None:
    tokenizer = TextTokenizer.of(make_bpe())
    text = '{"object_1": {"desc": "cat", "bbox_2d": [1, 2, 30, 20]}}'
    ids = tokenizer.encode(text).ids
    (item,) = salvage_text(text).objects
    trace = [TokenTrace(-0.1) for _ in ids]
    assert expected_values(item, pieces=decode_pieces(ids, tokenizer=tokenizer), trace=trace, window=24) == (1, 2, 30, 20)
