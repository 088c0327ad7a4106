"""Scores follow their formula."""

import math

import pytest

from coordexp.codec.pieces import decode_pieces
from coordexp.codec.salvage import salvage_text
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.scores import CONSTANT, Confidence, score_object
from coordexp.types.predictions import ScoreParts
from coordexp.types.rollouts import TokenTrace

COORD_TEXT = '{"object_1": {"desc": "cat", "bbox_2d": ["<|coord_10|>", "<|coord_20|>", "<|coord_30|>", "<|coord_40|>"]}}'
PLAIN_TEXT = '{"object_1": {"desc": "cat", "bbox_2d": [10, 20, 300, 40]}}'
BINS = tuple(range(1000))


def spike(at: int, mass: float) -> tuple[float, ...]:
    """`mass` at one bin, the rest at the far end of the axis."""
    probs = [0.0] * 1000
    probs[at], probs[(at + 500) % 1000] = mass, 1.0 - mass
    return tuple(probs)


def score(text: str, make_bpe, entry_of, *, window: int = 10) -> Confidence:
    tokenizer = TextTokenizer.of(make_bpe())
    pieces = decode_pieces(tokenizer.encode(text).ids, tokenizer=tokenizer)
    trace = [entry_of(piece.decode()) for piece in pieces.pieces]
    return score_object(salvage_text(text).objects[0], pieces=pieces, trace=trace, window=window)


def test_desc_is_the_geometric_mean_of_its_tokens_and_the_score_the_product(make_bpe) -> None:
    letters = {"c": 0.5, "a": 0.8, "t": 1.0}

    def entry(piece: str) -> TokenTrace:
        if piece.startswith("<|coord_"):
            return TokenTrace(-5.0, BINS, spike(int(piece[8:-2]), 0.9))
        return TokenTrace(math.log(letters.get(piece, 0.123)))

    desc = (0.5 * 0.8 * 1.0) ** (1 / 3)
    assert score(COORD_TEXT, make_bpe, lambda piece: TokenTrace(math.log(0.123)) if piece == '"' else entry(piece)) == Confidence(
        score=round(desc * 0.9, 6), parts=ScoreParts(desc=round(desc, 6), coord=0.9), source="token_probs"
    )


@pytest.mark.parametrize(("offset", "expected"), [(0, 1.0), (10, 1.0), (-10, 1.0), (11, 0.0), (-11, 0.0)])
def test_a_slot_counts_the_mass_within_the_window(make_bpe, offset: int, expected: float) -> None:
    def entry(piece: str) -> TokenTrace:
        is_coord = piece.startswith("<|coord_")
        return TokenTrace(0.0, BINS, spike(int(piece[8:-2]) + offset, 1.0)) if is_coord else TokenTrace(0.0)

    assert score(COORD_TEXT, make_bpe, entry).parts.coord == pytest.approx(expected)


def test_the_window_ends_at_the_edge_of_the_axis(make_bpe) -> None:
    uniform = tuple([0.001] * 1000)
    confidence = score(COORD_TEXT, make_bpe, lambda piece: TokenTrace(0.0, BINS, uniform) if piece.startswith("<|coord_") else TokenTrace(0.0), window=20)
    bins_in_reach = [31, 41, 41, 41]
    assert confidence.parts.coord == pytest.approx(math.prod(number / 1000 for number in bins_in_reach) ** 0.25, abs=1e-6)


def test_the_top_bins_of_a_server_are_enough(make_bpe) -> None:
    top = {10: ((9, 10), (0.25, 0.5)), 20: ((20, 900), (0.5, 0.5)), 30: ((30,), (0.5,)), 40: ((40,), (0.5,))}
    confidence = score(COORD_TEXT, make_bpe, lambda piece: TokenTrace(0.0, *top[int(piece[8:-2])]) if piece.startswith("<|coord_") else TokenTrace(0.0))
    assert confidence.parts.coord == pytest.approx((0.75 * 0.5**3) ** 0.25, abs=1e-6)


def test_plain_numbers_take_the_product_of_their_digits(make_bpe) -> None:
    confidence = score(PLAIN_TEXT, make_bpe, lambda piece: TokenTrace(math.log(0.5)) if piece.isdigit() else TokenTrace(0.0))
    digits = [2, 2, 3, 2]
    assert confidence.parts.coord == pytest.approx(math.prod(0.5**number for number in digits) ** 0.25, abs=1e-6)


def test_without_probabilities_the_score_is_constant(make_bpe) -> None:
    tokenizer = TextTokenizer.of(make_bpe())
    pieces = decode_pieces(tokenizer.encode(COORD_TEXT).ids, tokenizer=tokenizer)
    confidence = score_object(salvage_text(COORD_TEXT).objects[0], pieces=pieces, trace=None)
    assert confidence == CONSTANT == Confidence(1.0, None, "constant")
