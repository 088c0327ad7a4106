"""Constrained decoding without a model: allowed tokens at random always make a document, and every document is allowed; on real BPE that fuses punctuation."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass, replace
from functools import cache, reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from coordexp.codec.answer_automaton import AnswerAutomaton, AnswerRow
from coordexp.codec.coord_tokens import CoordVocabulary, coord_token
from coordexp.codec.desc_automaton import open_desc
from coordexp.codec.piece_index import PieceIndex
from coordexp.codec.serialize import END_TEXT, serialize_objects, with_end
from coordexp.codec.strict import parse_rollout
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.models.assets import tiny_checkpoint
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import CheckpointError
from coordexp.types.records import DetObject

FUSIONS = {
    "bytes": (),
    "to the end": ('"]}}', '"]}', "}}", '"]]}}', '"}}', "]}}"),
    "into the next object": ('"]}, "object_', '", "', '"]}, "object_2', '"}, "object_1'),
    "from the first brace": ("{}", '{"object_1', '": {"desc": "', '": {"desc": "c', '{"object_1": {"bbox_2d": ["'),
    "numbers": ("12", "999", ", 1", "10, ", '1": {', "], [", "5]}", "0]}, "),
    "around a desc": ('cat", "', 'cat"', '"cat", "bbox_2d": [', "\\u00", '\\"', "é", 'a"}', " \\u003c|"),
}
TINY = "tiny"
LABELS = ("cat", "cat tree", 'a "b"', "<|im_end|>", "犬")
SPECS = st.builds(
    ConstraintSpec,
    field_order=st.sampled_from(["desc_first", "geometry_first"]),
    coord_mode=st.sampled_from(["coord", "text"]),
    kinds=st.sampled_from([("bbox_2d",), ("poly",), ("bbox_2d", "poly")]),
    labels=st.sampled_from([None, LABELS]),
    max_objects=st.sampled_from([None, 1, 12]),
    max_desc_tokens=st.sampled_from([16, 64]),
)


@dataclass(frozen=True, repr=False)
class Vocabulary:
    tokenizer: TextTokenizer
    coords: CoordVocabulary
    end: int
    index: PieceIndex

    def automaton(self, spec: ConstraintSpec) -> AnswerAutomaton:
        return _automaton(self, spec)

    def __hash__(self) -> int:
        return id(self)


@cache
def _automaton(vocabulary: Vocabulary, spec: ConstraintSpec) -> AnswerAutomaton:
    return AnswerAutomaton(spec, vocabulary.index, coord_vocab=vocabulary.coords, stop_ids=[vocabulary.end])


@pytest.fixture(scope="module")
def vocabularies(make_bpe) -> dict[str, Vocabulary]:
    tokenizers = {name: make_bpe(*fused) for name, fused in FUSIONS.items()} | {TINY: Tokenizer.from_file(str(tiny_checkpoint() / "tokenizer.json"))}
    found: dict[str, Vocabulary] = {}
    for name, raw in tokenizers.items():
        tokenizer = TextTokenizer.of(raw)
        coords = CoordVocabulary(tuple(tokenizer.encode(coord_token(k)).ids[0] for k in range(1000)))
        (end,) = tokenizer.encode(END_TEXT).ids
        # a few rows of the logits belong to no token
        index = PieceIndex.of(tokenizer, vocab_size=max(*coords.ids, end, 1700) + 8, stop_ids=[end])
        found[name] = Vocabulary(tokenizer, coords, end, index)
    return found


def walk(row: AnswerRow, vocab_size: int, choices: random.Random, *, shortly: bool = False) -> list[int]:
    """Tokens by the dice up to the end token."""
    allowed, ids = np.empty(vocab_size, dtype=bool), list[int]()
    while not row.is_done:
        if shortly:
            row.close_soon()
        row.fill(allowed)
        ids.append(choices.choice(np.flatnonzero(allowed).tolist()))
        assert row.push(ids[-1])
    return ids


def check(ids: list[int], spec: ConstraintSpec, vocabulary: Vocabulary) -> list[DetObject]:
    """The objects of an answer that holds what the spec promises."""
    text = b"".join(vocabulary.tokenizer.pieces(ids[:-1])).decode()
    document = json.loads(text)
    assert list(document) == [f"object_{number}" for number in range(1, len(document) + 1)]
    if spec.coord_mode == "coord":
        parsed = parse_rollout(ids, tokenizer=vocabulary.tokenizer, coord_vocab=vocabulary.coords, allow_poly="poly" in spec.kinds)
        assert (parsed.dropped, parsed.num_ambiguous, parsed.is_invalid, parsed.is_truncated) == ((), 0, False, False)
        objects = [item.to_object() for item in parsed.objects]
    else:
        objects = [_plain_object(entry) for entry in document.values()]
    assert len(objects) == len(document) <= (spec.max_objects or len(document))
    assert spec.labels is None or {item.desc for item in objects} <= set(spec.labels)
    for item in objects:
        assert item.kind in spec.kinds
        assert item.kind == "poly" or (item.points[0] <= item.points[2] and item.points[1] <= item.points[3])
    if all(item.desc.isascii() and item.desc.isalnum() for item in objects):
        assert serialize_objects(objects, field_order=spec.field_order, coord_mode=spec.coord_mode).text == text
    return objects


def _plain_object(entry: dict[str, object]) -> DetObject:
    (kind,) = entry.keys() - {"desc"}
    points = entry[kind]
    assert isinstance(points, list)
    assert kind == "bbox_2d" or all(len(pair) == 2 for pair in points)
    values = points if kind == "bbox_2d" else [value for pair in points for value in pair]
    assert all(type(value) is int and 0 <= value <= 999 for value in values)
    assert len(values) == 4 if kind == "bbox_2d" else len(values) >= 6
    desc = entry["desc"]
    assert isinstance(desc, str)
    return DetObject(desc, kind, tuple(values))  # pyright: ignore[reportArgumentType]


@given(st.data())
def test_allowed_tokens_at_random_always_make_a_document_that_is_read_without_drops(vocabularies, data) -> None:
    vocabulary = vocabularies[data.draw(st.sampled_from([*FUSIONS, TINY]))]
    spec, limit = data.draw(SPECS), data.draw(st.integers(3, 300))
    row = AnswerRow(vocabulary.automaton(spec), max_new_tokens=limit)

    ids = walk(row, vocabulary.index.vocab_size, random.Random(data.draw(st.integers(0, 10**6))))

    assert len(ids) <= limit
    objects = check(ids, spec, vocabulary)
    rewritten = vocabulary.tokenizer.encode(with_end(serialize_objects(objects, field_order=spec.field_order, coord_mode=spec.coord_mode)).text).ids
    assert check(list(rewritten), spec, vocabulary) == objects


OBJECTS = st.lists(
    st.builds(
        lambda desc, corner, size: DetObject(desc, "bbox_2d", (*corner, min(corner[0] + size, 999), min(corner[1] + size, 999))),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip) | st.sampled_from(["cat", "a cat", "<|", "　x"]),
        st.tuples(st.integers(0, 999), st.integers(0, 999)),
        st.integers(0, 999),
    )
    | st.builds(
        lambda desc, ring: DetObject(desc, "poly", tuple(ring)),
        st.sampled_from(["a } b", 'x "]}} y', "{", "日本 🙂", "\\", "object_1", "cat"]),
        st.lists(st.integers(0, 999), min_size=6, max_size=10).filter(lambda ring: len(ring) % 2 == 0),
    ),
    max_size=13,
)


def cut_at_random(text: str, vocabulary: Vocabulary, choices: random.Random) -> list[int]:
    """One of the many ways to spell a text with tokens; coordinate tokens and the end have only one."""
    ids: list[int] = []
    for number, part in enumerate(re.split(r"(<\|\w+\|>)", text)):
        rest = part.encode()
        while rest:
            lengths = [length for length in range(1, min(len(rest), 64) + 1) if rest[:length] in vocabulary.index.known]
            length = len(rest) if number % 2 else choices.choice(lengths)
            ids.append(vocabulary.tokenizer.encode(part).ids[0] if number % 2 else vocabulary.index.known[rest[:length]])
            rest = rest[length:]
    return ids


@given(st.data())
def test_every_document_of_the_serializer_is_allowed_however_it_is_cut_into_tokens(vocabularies, data) -> None:
    vocabulary = vocabularies[data.draw(st.sampled_from([*FUSIONS, TINY]))]
    objects = data.draw(OBJECTS)
    labels = (*LABELS, *(item.desc for item in objects)) if data.draw(st.booleans()) else None
    spec = replace(data.draw(SPECS), kinds=("bbox_2d", "poly"), labels=labels, max_objects=None)
    text = with_end(serialize_objects(objects, field_order=spec.field_order, coord_mode=spec.coord_mode)).text
    own_way = list(vocabulary.tokenizer.encode(text).ids)
    allowed = np.empty(vocabulary.index.vocab_size, dtype=bool)

    for ids in (own_way, cut_at_random(text, vocabulary, random.Random(len(text)))):
        row = AnswerRow(vocabulary.automaton(replace(spec, max_desc_tokens=200)), max_new_tokens=5000)
        for token_id in ids:
            row.fill(allowed)
            assert allowed[token_id], (token_id, vocabulary.tokenizer.piece(token_id))
            row.push(token_id)
        assert row.is_done
        assert not row.is_short


@given(st.data())
def test_an_answer_that_is_to_end_soon_ends_within_its_cost(vocabularies, data) -> None:
    vocabulary = vocabularies[data.draw(st.sampled_from([*FUSIONS, TINY]))]
    spec, choices = data.draw(SPECS), random.Random(data.draw(st.integers(0, 10**6)))
    automaton = vocabulary.automaton(spec)
    whole = walk(AnswerRow(automaton, max_new_tokens=200), vocabulary.index.vocab_size, choices)
    begun = whole[: data.draw(st.integers(0, len(whole) - 1))]
    row = AnswerRow(automaton, max_new_tokens=5000)
    assert all(row.push(token_id) for token_id in begun)
    cost = automaton.cost(row.state)

    rest = walk(row, vocabulary.index.vocab_size, choices, shortly=True)

    assert len(rest) <= cost
    check([*begun, *rest], spec, vocabulary)


@pytest.mark.parametrize("name", [*FUSIONS, TINY])
def test_the_table_of_a_desc_says_what_a_walk_through_the_vocabulary_says(vocabularies, name: str) -> None:
    index, desc = vocabularies[name].index, open_desc()
    for start in range(len(desc.steps)):
        run = index.run_table(desc.table, start, exits=np.array(desc.distance) == 0, exit_byte=ord('"'))
        expected = dict(index.walk(start, lambda state, byte: desc.steps[state].get(byte)))
        assert {place: int(state) for place, state in enumerate(run.states) if state >= 0} == expected
        ends = [(index.pieces[place][: at - 1], index.pieces[place][at - 1]) for place, at in zip(run.left.tolist(), run.left_at.tolist(), strict=True)]
        assert all(byte == ord('"') and desc.distance[reduce(lambda state, step: desc.steps[state][step], text, start)] == 0 for text, byte in ends)


BOX = '{"object_1": {"desc": "cat", "bbox_2d": ["<|coord_5|>", "<|coord_7|>", "'
REFUSED = {
    "a space before the document": ("", " "),
    "no document": ("", "]"),
    "the second key first": ('{"object_', "2"),
    "a key twice": (BOX + '<|coord_5|>", "<|coord_7|>"]}, "object_', "1"),
    "a leading zero of a key": ('{"object_', "0"),
    "a blank desc": ('{"object_1": {"desc": "  ', '"'),
    "a blank desc by an escape": ('{"object_1": {"desc": "\\u0020\\t', '"'),
    "a control character": ('{"object_1": {"desc": "a', "\n"),
    "an unknown escape": ('{"object_1": {"desc": "a\\', "x"),
    "a special token letter by letter": ('{"object_1": {"desc": "a<', "|"),
    "a special token": ('{"object_1": {"desc": "a', END_TEXT),
    "a coordinate in a desc": ('{"object_1": {"desc": "a', "<|coord_1|>"),
    "a coordinate letter by letter": (BOX, "<"),
    "a number in place of a token": (BOX, "5"),
    "x2 left of x1": (BOX, "<|coord_4|>"),
    "y2 above y1": (BOX + '<|coord_5|>", "', "<|coord_6|>"),
    "a fifth coordinate": (BOX + '<|coord_5|>", "<|coord_7|>"', ","),
    "only three coordinates": (BOX + '<|coord_5|>"', "]"),
    "the end inside": (BOX + '<|coord_5|>", "<|coord_7|>"]}', END_TEXT),
    "a comma behind the last object": (BOX + '<|coord_5|>", "<|coord_7|>"]}, ', "}"),
    "text behind the document": ("{}", " "),
    "a polygon": ('{"object_1": {"desc": "a", "', "p"),
}


@pytest.mark.parametrize(("begun", "bad"), REFUSED.values(), ids=REFUSED.keys())
def test_what_may_not_follow_is_neither_in_the_mask_nor_taken(vocabularies, begun: str, bad: str) -> None:
    vocabulary = vocabularies["bytes"]
    row, allowed = AnswerRow(vocabulary.automaton(ConstraintSpec()), max_new_tokens=500), np.empty(vocabulary.index.vocab_size, dtype=bool)
    assert all(row.push(token_id) for token_id in vocabulary.tokenizer.encode(begun).ids)
    (token_id,) = vocabulary.tokenizer.encode(bad).ids

    row.fill(allowed)

    assert allowed.any()
    assert not allowed[token_id]
    assert not row.push(token_id)


def test_characters_may_be_split_between_tokens_but_not_broken(vocabularies) -> None:
    vocabulary = vocabularies["bytes"]
    row = AnswerRow(vocabulary.automaton(ConstraintSpec()), max_new_tokens=500)
    token_of = {byte: vocabulary.index.known[bytes([byte])] for byte in (*"é日🙂".encode(), *b'"a')}
    assert all(row.push(token_id) for token_id in vocabulary.tokenizer.encode('{"object_1": {"desc": "').ids)

    for char in "é日🙂":
        for byte in char.encode()[:-1]:
            assert row.push(token_of[byte])
            assert not row.push(token_of[ord('"')])
            assert not row.push(token_of[ord("a")])
        assert row.push(token_of[char.encode()[-1]])
    assert row.push(token_of[ord('"')])


def test_keys_go_on_beyond_nine_and_end_at_the_largest_number_of_objects(vocabularies) -> None:
    vocabulary = vocabularies["numbers"]
    objects = [DetObject("a", "bbox_2d", (1, 2, 3, 4))] * 120
    for count, ends in ((119, True), (120, True), (121, False)):
        row = AnswerRow(vocabulary.automaton(ConstraintSpec(max_objects=120)), max_new_tokens=20_000)
        ids = vocabulary.tokenizer.encode(with_end(serialize_objects((objects * 2)[:count])).text).ids
        assert all(row.push(token_id) for token_id in ids) == ends


def test_a_limit_without_room_for_the_empty_answer_is_refused(vocabularies) -> None:
    automaton = vocabularies["bytes"].automaton(ConstraintSpec())
    AnswerRow(automaton, max_new_tokens=3)
    with pytest.raises(ValueError, match="the empty answer has 3 tokens, and 2 are allowed"):
        AnswerRow(automaton, max_new_tokens=2)


def test_a_vocabulary_without_a_byte_is_refused(make_bpe) -> None:
    document = json.loads(make_bpe().to_str())
    document["model"]["vocab"]["gone"] = document["model"]["vocab"].pop("a")
    with pytest.raises(CheckpointError, match="byte 0x61 has no token"):
        PieceIndex.of(TextTokenizer.of(Tokenizer.from_str(json.dumps(document))), vocab_size=300)


SPEC_ERRORS = {
    "kinds": ({"kinds": ()}, "one or both of bbox_2d and poly"),
    "no label": ({"labels": ()}, "empty list"),
    "blank label": ({"labels": ("cat", " ")}, "no desc can be ' '"),
    "objects": ({"max_objects": 0}, "at least 1"),
    "desc": ({"max_desc_tokens": 3}, "at least 16"),
}


@pytest.mark.parametrize(("values", "message"), SPEC_ERRORS.values(), ids=SPEC_ERRORS.keys())
def test_a_constraint_that_leaves_nothing_to_say_is_refused(values, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConstraintSpec(**values)


@given(SPECS)
def test_a_constraint_goes_through_json(spec: ConstraintSpec) -> None:
    assert ConstraintSpec.from_json(json.loads(json.dumps(spec.as_json()))) == spec


@pytest.mark.parametrize("document", [{}, {"kinds": ["bbox_2d"], "labels": None, "colour": 1}, {**ConstraintSpec().as_json(), "field_order": "none"}])
def test_what_is_no_constraint_is_refused(document) -> None:
    with pytest.raises(ValueError, match=r"no constraint|unknown field order"):
        ConstraintSpec.from_json(document)
