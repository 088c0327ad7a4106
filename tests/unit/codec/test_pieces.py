from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from coordexp.codec.pieces import cut_pieces, decode_pieces
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.types.errors import CheckpointError


@settings(max_examples=2 * settings().max_examples)
@given(ids=st.lists(st.one_of(st.integers(0, 255), st.integers(0, 1400)), max_size=40))
def test_any_ids_decode_to_the_text_that_the_tokenizer_gives(make_bpe, ids: list[int]) -> None:
    backend = make_bpe("é", "}}")
    pieces = decode_pieces(ids, tokenizer=TextTokenizer.of(backend))
    assert pieces.text == backend.decode(ids, skip_special_tokens=False)
    assert list(pieces.starts) == sorted(pieces.starts)
    assert list(pieces.ends) == sorted(pieces.ends)
    assert all(0 <= start <= end <= len(pieces.text) for start, end in zip(pieces.starts, pieces.ends, strict=True))


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_offsets_of_decoding_equal_offsets_of_encoding(make_bpe, text: str) -> None:
    tokens = TextTokenizer.of(make_bpe('"a', "日")).encode(text)
    pieces = decode_pieces(tokens.ids, tokenizer=TextTokenizer.of(make_bpe('"a', "日")))
    assert pieces.text == text
    assert tuple(zip(pieces.starts, pieces.ends, strict=True)) == tokens.offsets


def test_a_character_that_is_split_over_tokens_belongs_to_each_of_them(make_bpe) -> None:
    tokenizer = TextTokenizer.of(make_bpe())
    pieces = decode_pieces(tokenizer.encode("a🙂<|coord_7|>b").ids, tokenizer=tokenizer)
    assert (pieces.starts, pieces.ends) == ((0, 1, 1, 1, 1, 2, 13), (1, 2, 2, 2, 2, 13, 14))
    assert pieces.token_span(1, 2) == (1, 5)
    assert pieces.token_span(2, 13) == (5, 6)


def test_an_id_that_the_tokenizer_does_not_know_covers_nothing(make_bpe) -> None:
    pieces = decode_pieces([65, 99_999, 66], tokenizer=TextTokenizer.of(make_bpe()))
    assert (len(pieces.text), pieces.starts, pieces.ends) == (2, (0, 1, 1), (1, 1, 2))


@settings(max_examples=2 * settings().max_examples)
@given(text=st.text('é"]}{ ab日', max_size=20), data=st.data())
def test_a_cut_keeps_every_id_but_the_last_and_decodes_to_the_kept_text(make_bpe, text: str, data: st.DataObject) -> None:
    backend = make_bpe('é"]}', "]}}", '日"', "ab ", "}}")
    tokenizer = TextTokenizer.of(backend)
    pieces = decode_pieces(tokenizer.encode(text).ids, tokenizer=tokenizer)
    end = data.draw(st.integers(0, len(text)))
    ids, num_replaced = cut_pieces(pieces, end, tokenizer=tokenizer)
    num_kept = len(ids) - num_replaced
    assert backend.decode(ids, skip_special_tokens=False) == text[:end]
    assert ids[:num_kept] == pieces.token_ids[:num_kept]
    assert num_replaced == 0 or num_kept == sum(1 for last in pieces.ends if last <= end)


def test_a_cut_inside_a_token_that_begins_in_the_middle_of_a_character_is_spelled_in_bytes(make_bpe) -> None:
    backend = make_bpe()
    first, second = backend.encode("é", add_special_tokens=False).ids
    vocab = {**backend.get_vocab(with_added_tokens=False)}
    vocab[backend.id_to_token(second) + "}"] = len(vocab)
    fused = Tokenizer(models.BPE(vocab=vocab, merges=[(backend.id_to_token(second), "}")]))
    tokenizer = TextTokenizer.of(fused)
    pieces = decode_pieces([first, len(vocab) - 1], tokenizer=tokenizer)
    assert pieces.text == "é}"
    assert cut_pieces(pieces, 1, tokenizer=tokenizer) == ((first, second), 1)


def test_a_fast_tokenizer_of_transformers_is_used_through_its_backend(make_bpe) -> None:
    wrapper = PreTrainedTokenizerFast(tokenizer_object=make_bpe("}}"), pad_token="<|im_end|>")
    wrapper(["a long text", "x"], truncation=True, max_length=2, padding=True)
    text = '{"object_1": "<|coord_5|>"}}<|im_end|>'
    tokens = TextTokenizer.of(wrapper).encode(text)
    assert list(tokens.ids) == wrapper(text, add_special_tokens=False)["input_ids"]
    assert tokens.offsets[-2:] == ((26, 28), (28, 38))


def test_a_tokenizer_without_pieces_is_refused() -> None:
    with pytest.raises(CheckpointError, match="fast tokenizer"):
        TextTokenizer.of(object())  # type: ignore[arg-type]


def test_a_vocabulary_that_is_not_byte_level_is_refused() -> None:
    tokenizer = TextTokenizer.of(Tokenizer(models.WordLevel({"日本": 0}, unk_token="日本")))
    with pytest.raises(CheckpointError, match="byte-level BPE"):
        tokenizer.piece(0)
