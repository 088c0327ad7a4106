from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from coordexp.codec.coord_tokens import CoordVocabulary, coord_tokens
from coordexp.codec.prompts import CoordMode, FieldOrder
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.codec.token_count import AnswerLengths
from coordexp.targets.ground_truth import ground_truth_target
from coordexp.types.records import DetObject

DESCS = st.sampled_from(["cat", "black cat", "1", "]}, ", '"quoted"', "<|im_end|>", "<|coord_3|>", "é", ""])
BINS = st.integers(0, 999)
OBJECTS = st.lists(
    st.builds(DetObject, desc=DESCS, kind=st.just("bbox_2d"), points=st.tuples(BINS, BINS, BINS, BINS))
    | st.builds(DetObject, desc=DESCS, kind=st.just("poly"), points=st.lists(BINS, min_size=6, max_size=12).map(lambda v: tuple(v[: len(v) // 2 * 2]))),
    max_size=12,
)


@pytest.fixture(scope="module")
def tokenizer(make_bpe) -> TextTokenizer:
    """Some tokens reach over what belongs to one object and what to the next."""
    return TextTokenizer(make_bpe('"]}, "object_', "object_1", '0": {"desc": "', "black cat", '", "', "]]}", '"]}}'))


def vocabulary(tokenizer: TextTokenizer) -> CoordVocabulary:
    return CoordVocabulary(tuple(tokenizer.encode(token).ids[0] for token in coord_tokens()))


@pytest.mark.parametrize("field_order", ["desc_first", "geometry_first"])
@pytest.mark.parametrize("coord_mode", ["coord", "text"])
def test_counts_equal_the_real_answers(tokenizer: TextTokenizer, field_order: FieldOrder, coord_mode: CoordMode) -> None:
    vocab = vocabulary(tokenizer)
    lengths = AnswerLengths(tokenizer, coord_vocab=vocab, field_order=field_order, coord_mode=coord_mode)

    @given(objects=OBJECTS)
    def check(objects: list[DetObject]) -> None:
        target = ground_truth_target(objects, tokenizer=tokenizer, coord_vocab=vocab, field_order=field_order, coord_mode=coord_mode)
        assert lengths.count(objects) == len(target.token_ids)

    check()


def test_what_stands_between_coordinates_is_tokenized_once(tokenizer: TextTokenizer) -> None:
    seen: list[str] = []

    class Counting(TextTokenizer):
        def encode(self, text: str):
            seen.append(text)
            return super().encode(text)

    lengths = AnswerLengths(Counting(tokenizer._backend), coord_vocab=vocabulary(tokenizer))
    boxes = [tuple(DetObject("cat", "bbox_2d", (shift, 2, 3, 4)) for shift in range(start, start + 5)) for start in (0, 5)]
    first = lengths.count(boxes[0])
    num_seen = len(seen)
    assert lengths.count(boxes[1]) == first
    assert len(seen) == num_seen


def test_coordinate_tokens_that_take_a_space_with_them_are_not_counted_piece_by_piece(make_bpe) -> None:
    """A token that swallows the space before it does not split the text where its characters begin."""
    greedy = Tokenizer.from_str(make_bpe().to_str())
    plain = Tokenizer.from_str(greedy.to_str())
    for token in coord_tokens():
        greedy.add_special_tokens([AddedToken(token, special=True, normalized=False, lstrip=True)])
    for backend, expected in ((plain, True), (greedy, False)):
        tokenizer = TextTokenizer(backend)
        assert tokenizer.splits_at(vocabulary(tokenizer).ids) is expected
