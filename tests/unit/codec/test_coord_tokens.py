from __future__ import annotations

import pytest

from coordexp.codec.coord_tokens import CoordVocabulary, coord_token, coord_tokens, parse_coord_token
from coordexp.types.errors import CheckpointError


def test_every_bin_reads_back_from_its_token() -> None:
    assert [parse_coord_token(coord_token(k)) for k in range(1000)] == list(range(1000))


@pytest.mark.parametrize("text", ["<|coord_1000|>", "<|coord_007|>", "<|coord_-1|>", "<|coord_|>", "<|coord_1|> ", "12", "", "<|coord_" + "9" * 9000 + "|>"])
def test_what_is_not_exactly_one_token_has_no_bin(text: str) -> None:
    assert parse_coord_token(text) is None


@pytest.mark.parametrize("k", [-1, 1000])
def test_a_bin_out_of_range_has_no_token(k: int) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.999"):
        coord_token(k)


def test_ids_are_looked_up_in_any_order(make_bpe) -> None:
    tokenizer = make_bpe()
    vocab = CoordVocabulary.from_tokenizer(tokenizer)
    assert all(vocab.id_of(k) == tokenizer.token_to_id(coord_token(k)) and vocab.bin_of(vocab.id_of(k)) == k for k in range(1000))
    assert vocab.id_of(1) < vocab.id_of(0)
    assert vocab.bin_of(0) is None


class _Vocab:
    def __init__(self, tokens: tuple[str, ...]) -> None:
        self._vocab = {token: number for number, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return self._vocab


def test_a_missing_coordinate_token_is_named_in_one_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"my/model: the tokenizer has 999 of the 1000 .*<\|coord_999\|> is missing"):
        CoordVocabulary.from_tokenizer(_Vocab(coord_tokens()[:-1]), where="my/model")


def test_two_bins_cannot_share_an_id() -> None:
    with pytest.raises(ValueError, match="not 999"):
        CoordVocabulary((5, 5, *range(10, 1008)))
