from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.strict import parse_rollout
from coordexp.targets.ground_truth import ground_truth_target
from coordexp.types.errors import CheckpointError
from coordexp.types.records import DetObject
from coordexp.types.sequences import Role, TargetSequence

CAT = DetObject("black cat", "bbox_2d", (110, 310, 410, 705))
RING = DetObject("é", "poly", (1, 2, 3, 4, 5, 6))
FUSIONS = [(), ('"]}}', '": {"desc": "', '", "'), ("]]}}", "}}", "1"), ('"]}, "object_2', 'at", "bbox_2d": ["')]


@pytest.fixture(params=FUSIONS, ids=["bytes", "glue", "closing", "crossing"])
def tokenizer(request: pytest.FixtureRequest, make_bpe) -> Tokenizer:
    return make_bpe(*request.param)


def target_of(tokenizer: Tokenizer, objects: list[DetObject], **settings: str) -> TargetSequence:
    return ground_truth_target(objects, tokenizer=tokenizer, coord_vocab=CoordVocabulary.from_tokenizer(tokenizer), **settings)  # type: ignore[arg-type]


def test_slots_stand_at_their_coordinates_and_hold_their_bins(tokenizer) -> None:
    target = target_of(tokenizer, [CAT, RING])
    assert [(slot.kind, slot.target_bins, slot.weight) for slot in target.slots] == [("bbox_2d", CAT.points, 1.0), ("poly", RING.points, 1.0)]
    for slot, item in zip(target.slots, (CAT, RING), strict=True):
        assert tokenizer.decode(target.token_ids[list(slot.positions)], skip_special_tokens=False) == "".join(f"<|coord_{k}|>" for k in item.points)


def test_everything_but_coordinates_is_supervised(tokenizer) -> None:
    target = target_of(tokenizer, [CAT, RING])
    positions = sorted(position for slot in target.slots for position in slot.positions)
    assert np.flatnonzero(target.ce_weight == 0).tolist() == positions == np.flatnonzero(target.roles == Role.COORD).tolist()
    assert set(target.ce_weight.tolist()) == {0.0, 1.0}
    assert target.roles[-1] == Role.END


def test_no_object_is_a_supervised_empty_answer(tokenizer) -> None:
    target = target_of(tokenizer, [])
    assert tokenizer.decode(target.token_ids, skip_special_tokens=False) == "{}<|im_end|>"
    assert (target.slots, set(target.ce_weight.tolist())) == ((), {1.0})


def test_text_mode_has_digits_with_cross_entropy_and_no_slots(tokenizer) -> None:
    target = ground_truth_target([CAT], tokenizer=tokenizer, coord_vocab=None, coord_mode="text", field_order="geometry_first")
    text = '{"object_1": {"bbox_2d": [110, 310, 410, 705], "desc": "black cat"}}<|im_end|>'
    assert tokenizer.decode(target.token_ids, skip_special_tokens=False) == text
    assert (target.slots, set(target.ce_weight.tolist())) == ((), {1.0})
    assert (target.roles == Role.COORD).sum() >= 4


def test_the_strict_parse_of_a_target_gives_its_objects_and_slots(tokenizer) -> None:
    target = target_of(tokenizer, [CAT, RING])
    parsed = parse_rollout(target.token_ids.tolist(), tokenizer=tokenizer, coord_vocab=CoordVocabulary.from_tokenizer(tokenizer), allow_poly=True)
    assert [(item.kind, item.coord_positions, item.bins) for item in parsed.objects] == [(slot.kind, slot.positions, slot.target_bins) for slot in target.slots]


def test_a_transformers_tokenizer_gives_the_same_target(tokenizer) -> None:
    wrapped = target_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer), [CAT, RING])
    plain = target_of(tokenizer, [CAT, RING])
    assert np.array_equal(wrapped.token_ids, plain.token_ids)
    assert wrapped.slots == plain.slots


def bytes_only(*specials: str) -> Tokenizer:
    alphabet = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return tokenizer


def test_a_coordinate_of_several_tokens_is_refused(make_bpe) -> None:
    with pytest.raises(CheckpointError, match=r"the coordinate <\|coord_110\|> is not exactly one token; add the coordinate tokens"):
        ground_truth_target([CAT], tokenizer=bytes_only("<|im_end|>"), coord_vocab=CoordVocabulary.from_tokenizer(make_bpe()))


def test_an_end_of_several_tokens_is_refused(make_bpe) -> None:
    with pytest.raises(CheckpointError, match=r"<\|im_end\|> is not one token"):
        ground_truth_target([], tokenizer=bytes_only(), coord_vocab=CoordVocabulary.from_tokenizer(make_bpe()))


def test_mode_coord_needs_a_vocabulary(make_bpe) -> None:
    with pytest.raises(ValueError, match="coordinate vocabulary"):
        ground_truth_target([CAT], tokenizer=make_bpe(), coord_vocab=None)
