"""Rollout targets: the supervision table cell by cell, what is kept, cut and joined, on real byte-level BPE that merges across the borders of objects."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from coordexp.codec.pieces import decode_pieces
from coordexp.codec.serialize import END_TEXT, serialize_objects, with_end
from coordexp.targets.ground_truth import ground_truth_target
from coordexp.targets.prefix import keep_entries
from coordexp.targets.rollout import RolloutTarget, RolloutTargetOptions, rollout_target
from coordexp.targets.supervision import rollout_matching_table, stage2_ab_table
from coordexp.types.records import DetObject
from coordexp.types.rollouts import Match, Pair
from coordexp.types.sequences import Provenance, Role


def box(desc: str, *points: int) -> DetObject:
    return DetObject(desc, "bbox_2d", points)


CAT, DOG, OWL = box("cat", 0, 0, 100, 100), box("dog", 0, 200, 100, 300), box("owl", 0, 400, 100, 500)
TRUTH = [CAT, DOG, OWL]
NEAR_CAT, NEAR_OWL, BEE = box("cat", 0, 0, 100, 98), box("owls", 2, 400, 100, 500), box("bee", 600, 600, 700, 700)
DROPPED = '{"desc": "ant", "bbox_2d": ["<|coord_1|>", "x"]}'
MIXED = serialize_objects([NEAR_CAT, BEE]).text[:-1] + f', "object_3": {DROPPED}, ' + serialize_objects([NEAR_OWL], start_index=4).text[1:]
"""Matched, unmatched, dropped, matched; the dog is missed."""


def weights_of(result: RolloutTarget, provenance: Provenance, *roles: Role) -> set[float]:
    is_asked = np.array([kind is provenance for kind in result.provenance]) & np.isin(result.target.roles, roles)
    assert is_asked.any()
    return set(result.target.ce_weight[is_asked].tolist())


def texts(bench, result: RolloutTarget) -> list[str]:
    return [bench.decode([token_id]) for token_id in result.target.token_ids]


def whole(result: RolloutTarget) -> list[tuple[str, str]]:
    """(key, desc) of every entry of the target that has a desc."""
    pairs = json.loads(result.text.removesuffix(END_TEXT), object_pairs_hook=list)
    return [(key, dict(value).get("desc", "")) for key, value in pairs]


AB, ROLLOUT = stage2_ab_table(), rollout_matching_table()
CELLS = [
    ("ab", AB, Provenance.MATCHED, Role.FORMAT, 1),
    ("ab", AB, Provenance.MATCHED, Role.KEY, 0),
    ("ab, key_ce", stage2_ab_table(key_ce=True), Provenance.MATCHED, Role.KEY, 1),
    ("ab", AB, Provenance.MATCHED, Role.DESC, 0),
    ("ab", AB, Provenance.MATCHED, Role.COORD, 0),
    ("ab", AB, Provenance.UNMATCHED, Role.FORMAT, 0),
    ("ab", AB, Provenance.UNMATCHED, Role.KEY, 0),
    ("ab", AB, Provenance.UNMATCHED, Role.DESC, 0),
    ("ab", AB, Provenance.UNMATCHED, Role.COORD, 0),
    ("ab", AB, Provenance.DROPPED, Role.FORMAT, 0),
    ("ab", AB, Provenance.DROPPED, Role.KEY, 0),
    ("ab", AB, Provenance.DROPPED, Role.COORD, 0),
    ("ab", AB, Provenance.APPENDED, Role.FORMAT, 1),
    ("ab", AB, Provenance.APPENDED, Role.KEY, 1),
    ("ab", AB, Provenance.APPENDED, Role.DESC, 1),
    ("ab, desc", stage2_ab_table(desc_ce_weight=0.5), Provenance.APPENDED, Role.DESC, 0.5),
    ("ab", AB, Provenance.APPENDED, Role.COORD, 0),
    ("ab", AB, Provenance.CLOSURE, Role.CLOSE, 1),
    ("ab", AB, Provenance.CLOSURE, Role.END, 1),
    ("ab, closure off", stage2_ab_table(closure_ce=False), Provenance.CLOSURE, Role.CLOSE, 0),
    ("ab, closure off", stage2_ab_table(closure_ce=False), Provenance.CLOSURE, Role.END, 0),
    *(("rollout matching", ROLLOUT, provenance, role, 0) for provenance in (Provenance.MATCHED, Provenance.UNMATCHED) for role in list(Role)[:4]),
    *(("rollout matching", ROLLOUT, Provenance.APPENDED, role, 0) for role in list(Role)[:4]),
    *(("rollout matching", ROLLOUT, Provenance.DROPPED, role, 0) for role in (Role.FORMAT, Role.KEY, Role.COORD)),
    *(("rollout matching", ROLLOUT, Provenance.CLOSURE, role, 1) for role in (Role.CLOSE, Role.END)),
    *(("rollout matching, closure off", rollout_matching_table(closure_ce=False), Provenance.CLOSURE, role, 0) for role in (Role.CLOSE, Role.END)),
]


@pytest.mark.parametrize(("table", "provenance", "role", "weight"), [cell[1:] for cell in CELLS], ids=[f"{c[0]}: {c[2]} {c[3].name}" for c in CELLS])
def test_each_cell_of_the_supervision_table(plain, table, provenance: Provenance, role: Role, weight: float) -> None:
    assert weights_of(plain.target(MIXED, TRUTH, table=table), provenance, role) == {weight}


@pytest.mark.parametrize("table", [AB, ROLLOUT], ids=["ab", "rollout matching"])
def test_slots_stand_at_matched_and_appended_objects_only(plain, table) -> None:
    result = plain.target(MIXED, TRUTH, table=table)
    assert [(slot.provenance, slot.target_bins) for slot in result.target.slots] == [
        (Provenance.MATCHED, CAT.points),
        (Provenance.MATCHED, OWL.points),
        (Provenance.APPENDED, DOG.points),
    ]
    said = [[plain.coord_vocab.bin_of(int(result.target.token_ids[place])) for place in slot.positions] for slot in result.target.slots]
    assert said == [list(item.points) for item in (NEAR_CAT, NEAR_OWL, DOG)]


def test_missed_objects_follow_with_the_next_keys_inside_the_same_object(bench) -> None:
    result = bench.target(MIXED, TRUTH)
    assert whole(result) == [("object_1", "cat"), ("object_2", "bee"), ("object_3", "ant"), ("object_4", "owls"), ("object_5", "dog")]
    assert bench.decode(result.target.token_ids) == result.text


def test_unmatched_and_dropped_objects_have_weight_zero_whatever_is_merged_with_them(bench) -> None:
    for options in (RolloutTargetOptions(), RolloutTargetOptions(missed_position="sorted")):
        result = bench.target(MIXED, TRUTH, options=options)
        parsed, pieces = bench.parse(result.target.token_ids.tolist()), decode_pieces(result.target.token_ids.tolist(), tokenizer=bench.tokenizer)
        for entry in parsed.entries:
            if json.loads(result.text[slice(*entry.chars)].partition(": ")[2])["desc"] in ("bee", "ant"):
                assert not result.target.ce_weight[slice(*pieces.token_span(*entry.chars))].any()


def test_a_brace_merged_with_an_unmatched_object_is_split_off_and_taught(bench) -> None:
    result = bench.target(serialize_objects([NEAR_CAT, BEE]).text, [CAT])
    assert texts(bench, result)[-2:] == ["}", END_TEXT]
    assert result.target.ce_weight[-2:].tolist() == [1, 1]


def test_of_an_answer_without_faults_the_target_is_the_ground_truth_target(bench) -> None:
    truth = [box("a cat", 0, 0, 9, 9), DetObject("é", "poly", (1, 2, 300, 4, 5, 600)), box("é", 0, 0, 9, 9), box("bat", 5, 5, 5, 5)]
    for field_order in ("desc_first", "geometry_first"):
        expected = ground_truth_target(truth, tokenizer=bench.tokenizer, coord_vocab=bench.coord_vocab, field_order=field_order)
        table = stage2_ab_table(key_ce=True, desc_ce_weight_matched=1.0)
        result = bench.target(expected.token_ids.tolist(), truth, table=table, options=RolloutTargetOptions(field_order=field_order))
        assert result.match.missed == ()
        assert np.array_equal(result.target.token_ids, expected.token_ids)
        assert np.array_equal(result.target.ce_weight, expected.ce_weight)
        assert np.array_equal(result.target.roles, expected.roles)
        assert [replace(slot, provenance=Provenance.GROUND_TRUTH) for slot in result.target.slots] == list(expected.slots)
        assert result.num_noncanonical_joins == 0


def test_of_an_answer_without_faults_own_keys_and_names_are_not_taught(plain) -> None:
    result = plain.target(with_end(serialize_objects(TRUTH)).text, TRUTH)
    assert np.array_equal(result.target.ce_weight == 0, np.isin(result.target.roles, (Role.KEY, Role.DESC, Role.COORD)))


def test_a_token_with_own_key_digits_is_not_taught(make_bench) -> None:

    bench = make_bench('_1": {"desc": "')
    result = bench.target(serialize_objects([CAT]).text, [CAT])
    assert result.target.ce_weight[texts(bench, result).index('_1": {"desc": "')] == 0


@pytest.mark.parametrize("response", ["", "hello", "[1]", "{", '{"object_1": {"desc": "ca', END_TEXT, "{}", "{}" + END_TEXT])
def test_without_an_object_the_target_is_the_ground_truth(bench, response: str) -> None:
    result, expected = bench.target(response, TRUTH), ground_truth_target(TRUTH, tokenizer=bench.tokenizer, coord_vocab=bench.coord_vocab)
    assert result.text == with_end(serialize_objects(TRUTH)).text
    if result.num_noncanonical_joins == 0:
        assert np.array_equal(result.target.token_ids, expected.token_ids)
        assert np.array_equal(result.target.ce_weight, expected.ce_weight)
    assert result.match.missed == (0, 1, 2)
    assert {kind for kind in result.provenance if kind is not Provenance.CLOSURE} == {Provenance.APPENDED}


def test_nothing_to_find_and_nothing_said_is_an_empty_answer_that_is_taught(bench) -> None:
    result = bench.target("{}", [])
    assert (result.text, set(result.target.ce_weight.tolist()), result.target.slots) == ("{}" + END_TEXT, {1.0}, ())


def test_own_tokens_stay_what_they_are_up_to_the_one_that_is_cut(bench) -> None:
    ids = bench.encode(MIXED)
    parsed, result = bench.parse(ids), bench.target(MIXED, TRUTH)
    num_own = len(parsed.prefix_ids) - parsed.num_retokenized
    assert result.target.token_ids[:num_own].tolist() == list(ids[:num_own])
    assert num_own >= len(ids) - 2


# names of matched objects


@pytest.mark.parametrize(
    ("said", "annotated", "taught"),
    [
        ("black cat", "black cat", "black cat"),
        ("black cat", "black dog", "black "),
        ("cat", "cats", "ca"),
        ("cats", "cat", "cat"),
        ("dog", "cat", ""),
        ('a "b"', 'a "b"', 'a \\"b\\"'),
    ],
)
def test_name_tokens_are_taught_where_they_agree_with_the_annotation(make_bench, said: str, annotated: str, taught: str) -> None:

    bench = make_bench()
    result = bench.target(serialize_objects([replace(CAT, desc=said)]).text, [replace(CAT, desc=annotated)], table=stage2_ab_table(desc_ce_weight_matched=0.25))
    is_taught = (result.target.roles == Role.DESC) & (result.target.ce_weight == 0.25)
    assert bench.decode(result.target.token_ids[is_taught]) == taught
    assert weights_of(result, Provenance.MATCHED, Role.DESC) <= {0.0, 0.25}


def test_a_name_that_the_gate_accepts_is_taught_whole(plain) -> None:
    asked: list[tuple[str, str]] = []

    def gate(names):
        asked.extend(names)
        return [pair == ("owls", "owl") for pair in names]

    objects = [replace(CAT, desc="kitten"), DOG, OWL]
    result = plain.target(MIXED, objects, table=stage2_ab_table(desc_ce_weight_matched=0.5), desc_gate=gate)
    assert asked == [("cat", "kitten"), ("owls", "owl")]
    is_taught = (result.target.roles == Role.DESC) & (result.target.ce_weight == 0.5)
    assert plain.decode(result.target.token_ids[is_taught]) == "owls"


def test_the_gate_is_not_asked_when_matched_names_have_no_weight(plain) -> None:
    plain.target(MIXED, TRUTH, desc_gate=lambda names: pytest.fail(f"asked about {names}"))


# structure of answers with something invalid


def test_structure_of_an_answer_with_a_dropped_object_can_weigh_more(plain) -> None:
    result = plain.target(MIXED, TRUTH, options=RolloutTargetOptions(struct_ce_multiplier=2.5))
    assert weights_of(result, Provenance.MATCHED, Role.FORMAT) == weights_of(result, Provenance.APPENDED, Role.FORMAT) == {2.5}
    assert weights_of(result, Provenance.DROPPED, Role.FORMAT) == {0.0}
    assert weights_of(result, Provenance.CLOSURE, Role.CLOSE, Role.END) == weights_of(result, Provenance.APPENDED, Role.DESC, Role.KEY) == {1.0}


@pytest.mark.parametrize("response", [serialize_objects([NEAR_CAT]).text, serialize_objects([NEAR_CAT, BEE]).text[:-40]])
def test_structure_of_an_answer_without_faults_weighs_what_it_does(plain, response: str) -> None:
    result = plain.target(response, TRUTH, options=RolloutTargetOptions(struct_ce_multiplier=2.5))
    assert weights_of(result, Provenance.MATCHED, Role.FORMAT) == {1.0}


# clean prefixes, missed objects in order, cuts


def test_a_clean_prefix_has_no_repeated_and_no_unreadable_entry(bench) -> None:
    response = serialize_objects([NEAR_CAT, CAT, BEE, box("Cat", 0, 0, 99, 100)]).text[:-1] + f', "object_5": {DROPPED}, "object_6": 7' + "}"
    result = bench.target(response, TRUTH, prefix="clean")
    assert whole(result) == [("object_1", "cat"), ("object_3", "bee"), ("object_4", "dog"), ("object_5", "owl")]
    assert (result.kept.numbers, result.kept.num_duplicates, result.kept.num_unreadable) == ((0, 2), 2, 2)
    assert bench.decode(result.target.token_ids) == result.text


def test_a_first_entry_that_leaves_takes_its_comma_along(bench) -> None:
    response = f'{{\n"object_1": {DROPPED},\n"object_2": ' + serialize_objects([NEAR_CAT]).text.partition(": ")[2]
    result = bench.target(response, [CAT], prefix="clean")
    assert result.text.startswith('{"object_2": {"desc": "cat"')
    assert json.loads(result.text.removesuffix(END_TEXT)).keys() == {"object_2"}


def test_same_objects_of_other_names_are_not_repeated(plain) -> None:
    assert plain.target(serialize_objects([CAT, replace(CAT, desc="dog")]).text, TRUTH, prefix="clean").kept.num_duplicates == 0


def test_kept_objects_keep_their_tokens_in_a_clean_prefix_with_missed_objects_between(bench) -> None:
    response = serialize_objects([NEAR_CAT, CAT, NEAR_OWL, BEE]).text
    ids, parsed = bench.encode(response), bench.parse(response)
    result = bench.target(response, TRUTH, prefix="clean", options=RolloutTargetOptions(missed_position="sorted"))
    assert whole(result) == [("object_1", "cat"), ("object_5", "dog"), ("object_3", "owls"), ("object_4", "bee")]
    again = {item.desc: item for item in bench.parse(result.target.token_ids.tolist()).objects}
    for item in (parsed.objects[0], parsed.objects[2], parsed.objects[3]):
        kept = again[item.desc]
        own, new = (slice(found.desc_tokens[0], found.coord_positions[-1] + 1) for found in (item, kept))
        assert result.target.token_ids[new].tolist() == list(ids[own])
    assert bench.decode(result.target.token_ids) == result.text


def test_keys_of_objects_between_own_ones_are_taught_only_when_all_are_renumbered(plain) -> None:
    response = serialize_objects([NEAR_CAT, NEAR_OWL]).text
    kept, counted = (plain.target(response, TRUTH, options=RolloutTargetOptions(missed_position="sorted", renumber_keys=flag)) for flag in (False, True))
    assert [key for key, _ in whole(kept)] == ["object_1", "object_3", "object_2"]
    assert [key for key, _ in whole(counted)] == ["object_1", "object_2", "object_3"]
    assert weights_of(kept, Provenance.APPENDED, Role.KEY) == {0.0}
    assert weights_of(counted, Provenance.APPENDED, Role.KEY) == {1.0}
    assert weights_of(counted, Provenance.MATCHED, Role.KEY) == {0.0}


def test_renumbering_changes_key_digits_and_nothing_else(bench) -> None:
    response = serialize_objects([NEAR_CAT, BEE], start_index=12).text
    result = bench.target(response, TRUTH, options=RolloutTargetOptions(renumber_keys=True))
    assert (
        result.text
        == response[:-1].replace("object_12", "object_1").replace("object_13", "object_2")
        + ", "
        + serialize_objects([DOG, OWL], start_index=3).text[1:]
        + END_TEXT
    )
    assert bench.decode(result.target.token_ids) == result.text


def test_missed_objects_come_before_the_first_own_one_that_is_sorted_behind_them(plain) -> None:
    missed = [box("top", 900, 0, 950, 50), box("end", 900, 900, 950, 950), box("mid", 900, 250, 950, 350)]
    response = serialize_objects([NEAR_CAT, box("bee", 600, 300, 700, 320), NEAR_OWL]).text
    result = plain.target(response, [CAT, OWL, *missed], options=RolloutTargetOptions(missed_position="sorted"))
    assert [desc for _, desc in whole(result)] == ["cat", "top", "mid", "bee", "owls", "end"]


@pytest.mark.parametrize(
    ("indices", "num_kept"),
    [((1, 2, 3), 3), ((1, 2, 2), 2), ((1, 3, 4), 1), ((2, 3, 4), 0), ((1, 11111111, 2), 1), ((1, 2, 10**17), 2)],
)
def test_the_prefix_ends_before_the_first_key_out_of_sequence(bench, indices: tuple[int, ...], num_kept: int) -> None:
    entries = ", ".join(serialize_objects([item], start_index=index).text[1:-1] for item, index in zip((NEAR_CAT, BEE, NEAR_OWL), indices, strict=True))
    result = bench.target("{" + entries + "}", TRUTH, cut_keys=True)
    descs = ["cat", "bee", "owls"][:num_kept]
    missed = [item.desc for item, said in zip(TRUTH, ("cat", "", "owls"), strict=True) if said not in descs]
    assert [desc for _, desc in whole(result)] == [*descs, *missed]
    assert [key for key, _ in whole(result)] == [f"object_{number + 1}" for number in range(len(descs) + len(missed))]
    assert result.kept.num_out_of_sequence == 3 - num_kept


@pytest.mark.parametrize(
    ("said", "objects", "kept"),
    [
        ([NEAR_CAT, BEE, BEE], [CAT], ["cat"]),
        ([BEE, BEE, NEAR_CAT, BEE], [CAT], ["bee", "bee", "cat"]),
        ([BEE, BEE], [CAT, DOG], ["bee", "bee"]),
        ([BEE, BEE], [], []),
    ],
)
def test_surplus_predictions_behind_the_last_match_are_cut_off(bench, said, objects, kept) -> None:
    result = bench.target(serialize_objects(said).text, objects, options=RolloutTargetOptions(cut_surplus=True))
    own = [desc for (_, desc), number in zip(whole(result), range(len(kept)), strict=False) if number < len(kept)]
    assert own == kept
    assert result.kept.num_surplus == len(said) - len(kept)
    assert len(result.match.unmatched) == kept.count("bee")
    assert result.target.roles[-2:].tolist() == [Role.CLOSE, Role.END]


def test_unmatched_predictions_leave_and_the_rest_is_taught_as_before(bench) -> None:
    said = [BEE, NEAR_CAT, BEE]
    result = bench.target(serialize_objects(said).text, TRUTH, options=RolloutTargetOptions(drop_unmatched=True, renumber_keys=True))
    without = bench.target(serialize_objects([NEAR_CAT]).text, TRUTH)
    assert result.text == without.text
    assert result.kept.num_unmatched == 2
    assert replace(result.match, num_gated=0) == replace(without.match, num_gated=0)
    taught = [[(slot.provenance, slot.target_bins, slot.weight) for slot in target.target.slots] for target in (result, without)]
    assert taught[0] == taught[1]


def test_a_matched_object_with_another_name_is_missed(bench) -> None:
    said = serialize_objects([replace(NEAR_CAT, desc="dog"), DOG]).text
    as_any = bench.target(said, TRUTH)
    assert [pair.gt for pair in as_any.match.pairs] == [0, 1]
    as_same = bench.target(said, TRUTH, options=RolloutTargetOptions(same_names=True))
    assert (as_same.match.missed, as_same.match.unmatched, [pair.gt for pair in as_same.match.pairs]) == ((0, 2), (0,), [1])
    assert [slot.provenance for slot in as_same.target.slots] == [Provenance.MATCHED, Provenance.APPENDED, Provenance.APPENDED]
    both = bench.target(said, TRUTH, options=RolloutTargetOptions(same_names=True, drop_unmatched=True, missed_position="sorted", renumber_keys=True))
    assert both.text == with_end(serialize_objects(TRUTH)).text
    assert both.kept.num_unmatched == 1
    assert [slot.provenance for slot in both.target.slots] == [Provenance.APPENDED, Provenance.MATCHED, Provenance.APPENDED]
    # case and blanks of a name do not matter
    spelled = serialize_objects([replace(NEAR_CAT, desc=" Cat"), DOG]).text
    assert bench.target(spelled, TRUTH, options=RolloutTargetOptions(same_names=True)).match.missed == (2,)


# joins, fallback, errors


def test_joins_that_the_tokenizer_would_cut_differently_are_counted(plain, make_bench) -> None:

    response = serialize_objects([NEAR_CAT, BEE]).text
    merging = make_bench('"]}, "object_', '"]}}')
    assert [(bench.target(response, TRUTH).num_joins, bench.target(response, TRUTH).num_noncanonical_joins) for bench in (plain, merging)] == [(1, 0), (1, 1)]
    # behind a matched object the cut token may merge with what follows it
    assert merging.target(serialize_objects([NEAR_CAT]).text, TRUTH).num_noncanonical_joins == 0


def test_punctuation_fuses_across_the_end_of_an_object_in_qwens_pre_tokenization(qwen_bench) -> None:
    tokens = [qwen_bench.decode([token_id]) for token_id in qwen_bench.encode(serialize_objects([CAT, DOG]).text)]
    assert {'"]},', '"]}}'} <= set(tokens)


def test_the_tiny_tokenizer_joins_as_it_would_cut_the_whole_text(tiny_bench) -> None:
    for missed_position in ("tail", "sorted"):
        for renumber_keys in (False, True):
            options = RolloutTargetOptions(missed_position=missed_position, renumber_keys=renumber_keys)
            result = tiny_bench.target(MIXED, TRUTH, prefix="clean", options=options)
            assert result.num_joins > 0
            assert result.num_noncanonical_joins == 0
            assert tuple(result.target.token_ids.tolist()) == tiny_bench.encode(result.text)


def test_a_name_that_the_tokenizer_normalizes_is_appended_as_in_the_ground_truth_target(qwen_bench) -> None:
    objects = [box("cafe\u0301", 1, 2, 3, 4), DOG]
    expected = ground_truth_target(objects, tokenizer=qwen_bench.tokenizer, coord_vocab=qwen_bench.coord_vocab)
    result = qwen_bench.target("", objects)
    assert "caf\u00e9" in qwen_bench.decode(result.target.token_ids)
    assert np.array_equal(result.target.token_ids, expected.token_ids)
    assert np.array_equal(result.target.roles, expected.roles)


def test_an_id_that_the_tokenizer_does_not_know_is_not_taught(plain) -> None:
    ids = plain.encode(serialize_objects([NEAR_CAT]).text)
    result = plain.target([*ids[:5], 10**6, *ids[5:]], TRUTH)
    assert result.target.token_ids[5] == 10**6
    assert result.target.ce_weight[5] == 0


def test_where_the_closing_brace_cannot_be_located_all_ground_truth_is_missed(bench) -> None:
    parsed = bench.parse(serialize_objects([NEAR_CAT, BEE]).text)
    cut = replace(parsed, prefix_ids=bench.encode(parsed.prefix_text[:-1]), prefix_text=parsed.prefix_text[:-1], num_retokenized=0)
    result = bench.target(cut, TRUTH)
    assert (result.is_fallback, result.text) == (True, with_end(serialize_objects(TRUTH)).text)
    assert (result.match.missed, result.kept.objects) == ((0, 1, 2), ())
    assert not bench.target(parsed, TRUTH).is_fallback


def test_a_match_of_something_else_is_refused(plain) -> None:
    parsed = plain.parse(serialize_objects([NEAR_CAT]).text)
    arguments = {"tokenizer": plain.tokenizer, "coord_vocab": plain.coord_vocab, "table": AB}
    for match in (Match((), (0,), (), 0), Match((Pair(0, 0, 1.0),), (1, 1, 2), (), 0)):
        with pytest.raises(ValueError, match="not one of 1 kept predictions and 3 objects"):
            rollout_target(parsed, keep_entries(parsed), match, TRUTH, **arguments)


def test_ids_that_do_not_spell_the_prefix_are_refused(plain) -> None:
    parsed = plain.parse(serialize_objects([NEAR_CAT]).text)
    with pytest.raises(ValueError, match="do not spell"):
        plain.target(replace(parsed, prefix_ids=parsed.prefix_ids[:-1]), TRUTH)


# polygons


def test_a_matched_polygon_gets_a_target_for_each_of_its_vertices(plain) -> None:
    truth = DetObject("leaf", "poly", (100, 100, 500, 100, 500, 500, 100, 500))
    said = DetObject("leaf", "poly", (110, 90, 300, 105, 480, 100, 510, 490, 90, 510))
    (slot,) = plain.target(serialize_objects([said]).text, [truth], table=ROLLOUT).target.slots
    assert (slot.kind, len(slot.positions), len(slot.target_bins)) == ("poly", 10, 10)
    assert all(100 <= value <= 500 for value in slot.target_bins)
