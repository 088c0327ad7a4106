"""The tiny tokenizer: what is one token, and that no token reaches across the border between two objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from coordexp.codec.coord_tokens import CoordVocabulary, coord_tokens
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.serialize import serialize_entries, serialize_objects, with_end
from coordexp.data.synthetic import DIGIT_NAMES, SHAPE_NAMES
from coordexp.models.tokenizer import SPECIAL_TOKENS, train_tokenizer
from coordexp.types.records import DetObject

TOKENIZER = train_tokenizer(0)
BINS = st.integers(0, 999)
DESCS = st.one_of(st.sampled_from((*SHAPE_NAMES, *DIGIT_NAMES)), st.text(min_size=1, max_size=20))
BOXES = st.builds(lambda desc, a, b, c, d: DetObject(desc, "bbox_2d", (a, b, c, d)), DESCS, BINS, BINS, BINS, BINS)
POLYGONS = st.builds(lambda desc, points: DetObject(desc, "poly", tuple(points)), DESCS, st.lists(BINS, min_size=6, max_size=6))
FIELD_ORDERS = st.sampled_from(("desc_first", "geometry_first"))
COORD_MODES = st.sampled_from(("coord", "text"))


def ids_of(text: str, tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[int]:
    return tokenizer(text)["input_ids"]


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, *coord_tokens()[::111]])
def test_a_special_token_is_one_token(token: str) -> None:
    assert [TOKENIZER.decode(number) for number in ids_of(token)] == [token]


def test_every_coordinate_token_has_an_id_of_its_own() -> None:
    assert len(set(CoordVocabulary.from_tokenizer(TOKENIZER).ids)) == 1000


def test_a_box_costs_thirteen_tokens_with_a_one_word_desc() -> None:
    two = [DetObject("three", "bbox_2d", (1, 2, 3, 4)), DetObject("seven", "bbox_2d", (5, 6, 7, 8))]
    assert len(ids_of(serialize_objects(two).text)) - len(ids_of(serialize_objects(two[:1]).text)) == 13


def test_the_default_prompt_is_short() -> None:
    prompt = build_prompt(PromptSpec())
    assert len(ids_of(prompt.system + prompt.user)) <= 8


@given(st.lists(st.one_of(BOXES, POLYGONS), max_size=4), FIELD_ORDERS, COORD_MODES)
def test_a_text_reads_back_unchanged(objects: list[DetObject], fields: str, mode: str) -> None:
    text = with_end(serialize_objects(objects, field_order=fields, coord_mode=mode)).text
    assert TOKENIZER.decode(ids_of(text), skip_special_tokens=False) == text


@given(st.lists(st.one_of(BOXES, POLYGONS), min_size=1, max_size=4), FIELD_ORDERS, COORD_MODES, st.data())
def test_a_response_cut_after_any_object_continues_with_the_ids_of_the_whole(objects: list[DetObject], fields: str, mode: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(objects)))
    before = "{" + serialize_entries(objects[:cut], indices=range(1, cut + 1), field_order=fields, coord_mode=mode).text
    after = serialize_entries(objects[cut:], indices=range(cut + 1, len(objects) + 1), field_order=fields, coord_mode=mode).text
    joint = (", " if cut and after else "") + after
    assert ids_of(before) + ids_of(joint) + ids_of("}") == ids_of(before + joint + "}")


def test_the_ids_depend_on_the_seed_alone() -> None:
    assert train_tokenizer(0).get_vocab() == TOKENIZER.get_vocab()
    assert train_tokenizer(1).get_vocab() != TOKENIZER.get_vocab()
