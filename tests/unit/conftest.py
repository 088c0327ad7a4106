"""Tokenizers for the tests: real byte-level BPE with chosen merges, the coordinate tokens and the end token."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.codec.serialize import END_TEXT

TokenizerMaker = Callable[..., Tokenizer]


@cache
def _fused_tokenizer(fused: tuple[str, ...]) -> Tokenizer:
    """Bytes are tokens, and so is each of the fused texts (with all its beginnings); earlier texts merge first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: number for number, char in enumerate(alphabet)}
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges: list[tuple[str, str]] = []
    for text in fused:
        chars = byte_level.pre_tokenize_str(text)[0][0]
        for length in range(2, len(chars) + 1):
            if chars[:length] not in vocab:
                vocab[chars[:length]] = len(vocab)
                merges.append((chars[: length - 1], chars[length - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    # the end token in the middle and the bins backwards: nothing may rely on the order of ids
    specials = [*reversed(coord_tokens()[500:]), END_TEXT, *reversed(coord_tokens()[:500])]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tokenizer


@pytest.fixture(scope="session")
def make_bpe() -> TokenizerMaker:
    return lambda *fused: _fused_tokenizer(tuple(fused))
