"""Whatever a model writes, and wherever it breaks off, the target is valid JSON that holds every missed object exactly once, and its own tokens stay."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.codec.pieces import decode_pieces
from coordexp.codec.serialize import END_TEXT, serialize_objects, with_end
from coordexp.targets.rollout import RolloutTarget, RolloutTargetOptions
from coordexp.targets.supervision import rollout_matching_table, stage2_ab_table
from coordexp.types.records import DetObject
from coordexp.types.rollouts import ParsedRollout
from coordexp.types.sequences import Provenance, Role

MANY = 10_000 if settings().max_examples > 100 else 150

BOX = st.builds(
    lambda desc, x, y, w, h: DetObject(desc, "bbox_2d", (x, y, min(x + w, 999), min(y + h, 999))),
    st.sampled_from(["cat", "at", "é", "a 🙂", 'x "]}} y', "{", "\\", "<|im_end|>", "object_1"]),
    *(st.integers(0, 999) for _ in range(2)),
    *(st.sampled_from([0, 1, 40, 300]) for _ in range(2)),
)
RING = st.builds(
    lambda desc, points: DetObject(desc, "poly", tuple(points[: len(points) // 2 * 2])),
    st.sampled_from(["leaf", "a } b"]),
    st.lists(st.integers(0, 999), min_size=6, max_size=11),
)
OBJECTS = st.lists(BOX | BOX | RING, max_size=5)
OPTIONS = st.builds(
    RolloutTargetOptions,
    field_order=st.sampled_from(["desc_first", "geometry_first"]),
    missed_position=st.sampled_from(["tail", "sorted"]),
    renumber_keys=st.booleans(),
    cut_surplus=st.booleans(),
    same_names=st.booleans(),
    drop_unmatched=st.booleans(),
    struct_ce_multiplier=st.sampled_from([1.0, 2.0]),
)
TABLES = st.sampled_from([stage2_ab_table(), stage2_ab_table(desc_ce_weight_matched=0.5, key_ce=True), rollout_matching_table()])


def spoil(draw: Any, text: str, objects: list[DetObject]) -> str:
    """One of the ways in which answers go wrong."""
    start = draw(st.integers(0, len(text)))
    kind = draw(st.sampled_from(["cut", "garbage", "repeat key", "huge key", "nested", "escaped", "loop", "end", "white space", "alien"]))
    if kind == "cut":
        return text[:start]
    if kind == "garbage":
        return text[:start] + draw(st.text('{}[]",: \\1é\n', max_size=4)) + text[start + draw(st.integers(0, 9)) :]
    if kind == "repeat key":
        return text.replace('"object_2"', '"object_1"')
    if kind == "huge key":
        return text.replace('"object_2"', f'"object_{draw(st.sampled_from([103, 999, 10**12, 10**30]))}"')
    if kind == "nested":
        return text.replace('"desc"', '"x": {"object_9": [{}, {"y": [1, {}]}]}, "desc"', draw(st.integers(1, 2)))
    if kind == "escaped":
        return "".join(f"\\u{ord(char):04x}" if draw(st.booleans()) and char in "objectcadsé" else char for char in text)
    if kind == "loop":
        entry = serialize_objects(objects[:1], start_index=draw(st.sampled_from([1, 7]))).text[1:-1]
        return text[:-1] + f", {entry}" * draw(st.integers(1, 6)) if entry and len(text) > 2 else text
    if kind == "end":
        return text[:start] + END_TEXT + text[start:]
    if kind == "white space":
        return text.replace(", ", ",\n").replace("}", " }")
    return text[:-1] + ', "x": 1, "object_3": null, "object_4": {"desc": "b", "line": []}}'


def check(bench: Any, ids: Sequence[int], objects: Sequence[DetObject], result: RolloutTarget, parsed: ParsedRollout, *, prefix: str, options) -> None:
    target, text = result.target, result.text
    assert b"".join(bench.tokenizer.pieces(target.token_ids.tolist())).decode("utf-8", "replace") == text
    assert text.endswith("}" + END_TEXT)
    pairs = json.loads(text.removesuffix(END_TEXT), object_pairs_hook=list)
    # every missed object exactly once, under a key of its own, at the tail in the order of the ground truth
    keys = [key for key, _ in pairs]
    again = bench.parse(target.token_ids.tolist())
    assert (again.is_truncated, again.is_invalid) == (False, False)
    assert again.num_ambiguous <= parsed.num_ambiguous
    read = [item.to_object() for item in again.objects]
    own = [item.to_object() for item in result.kept.objects]
    missed = [objects[gt] for gt in result.match.missed]
    assert sorted(map(repr, read)) == sorted(map(repr, [*own, *missed]))
    if options.missed_position == "tail":
        assert read == [*own, *missed]
        assert len(set(keys) - set(keys[: len(keys) - len(missed)])) == len(missed)
    if options.renumber_keys and all(entry.index is not None for entry in parsed.entries):
        assert keys == [f"object_{number + 1}" for number in range(len(keys))]
    # own tokens: all of them, up to the one that is cut
    taken_out = result.kept.num_out_of_sequence or result.kept.num_surplus or result.kept.num_unmatched
    if prefix == "raw" and not options.renumber_keys and not taken_out and not parsed.is_invalid:
        num_own = len(parsed.prefix_ids) - parsed.num_retokenized
        assert parsed.prefix_ids[:num_own] == tuple(ids[:num_own])
        if options.missed_position == "tail":
            assert tuple(target.token_ids[:num_own].tolist()) == tuple(ids[:num_own])
    # exactly zero on every token that touches an unmatched or a dropped entry
    pieces = decode_pieces(target.token_ids.tolist(), tokenizer=bench.tokenizer)
    taught = {(item.desc, item.bins) for item in again.objects if any(np.array_equal(slot.positions, item.coord_positions) for slot in target.slots)}
    for entry in again.entries:
        item = again.objects[entry.object_number] if entry.object_number is not None else None
        if item is None or (item.desc, item.bins) not in taught:
            assert not target.ce_weight[slice(*pieces.token_span(*entry.chars))].any()
    assert not target.ce_weight[[kind in (Provenance.UNMATCHED, Provenance.DROPPED) for kind in result.provenance]].any()
    # the closure is one token and the end, and taught
    assert (target.roles == Role.CLOSE).sum() == (target.roles == Role.END).sum() == 1
    assert target.roles[-2:].tolist() == [Role.CLOSE, Role.END]
    assert target.ce_weight[-2:].tolist() == [1.0, 1.0]
    # slots point at coordinate tokens; coordinates have no cross-entropy
    bins = np.array([bench.coord_vocab.bin_of(token_id) is not None for token_id in target.token_ids.tolist()])
    assert all(bins[list(slot.positions)].all() and len(slot.positions) == len(slot.target_bins) for slot in target.slots)
    assert len(target.slots) == len(objects)
    assert not target.ce_weight[target.roles == Role.COORD].any()


@settings(max_examples=MANY)
@given(said=OBJECTS, truth=OBJECTS, options=OPTIONS, table=TABLES, prefix=st.sampled_from(["raw", "clean"]), cut_keys=st.booleans(), data=st.data())
def test_every_answer_becomes_a_valid_target_with_every_missed_object_once(
    benches, said: list[DetObject], truth: list[DetObject], options: RolloutTargetOptions, table, prefix: str, cut_keys: bool, data: st.DataObject
) -> None:
    bench = benches[data.draw(st.integers(0, len(benches) - 1))]
    shared = data.draw(st.integers(0, len(truth)))
    text = serialize_objects([*truth[:shared], *said], field_order=options.field_order).text
    for _ in range(data.draw(st.integers(0, 2))):
        text = spoil(data.draw, text, said)
    ids = bench.tokenizer.encode(text).ids
    parsed = bench.parse(ids)
    result = bench.target(parsed, truth, prefix=prefix, cut_keys=cut_keys, options=options, table=table)
    check(bench, ids, truth, result, parsed, prefix=prefix, options=options)
    assert not result.is_fallback


@settings(max_examples=MANY)
@given(ids=st.lists(st.integers(0, 1300), max_size=60), truth=OBJECTS, at=st.integers(0, 60), number=st.integers(0, 8))
def test_random_tokens_inside_an_answer_become_a_valid_target(benches, ids: list[int], truth: list[DetObject], at: int, number: int) -> None:
    bench = benches[number % len(benches)]
    said = list(bench.tokenizer.encode(serialize_objects(truth).text).ids)
    response = [*said[:at], *ids, *said[at:]]
    result = bench.target(response, truth)
    json.loads(result.text.removesuffix(END_TEXT))
    assert len(result.target.slots) == len(truth)


def cut_everywhere(bench: Any, num_objects: int) -> None:
    rng = random.Random(5)
    corners = [(rng.randrange(900), 20 * number) for number in range(num_objects)]
    truth = [DetObject(f'the "{x}" }}é🙂', "bbox_2d", (x, y, x + 60, y + 15)) for x, y in corners]
    whole = with_end(serialize_objects(truth)).text
    ids = bench.tokenizer.encode(whole).ids
    for end in range(len(ids) + 1):
        parsed = bench.parse(ids[:end])
        result = bench.target(parsed, truth)
        assert result.text == whole
        num_said = len(parsed.objects)
        assert [pair.gt for pair in result.match.pairs] == list(range(num_said))
        assert result.match.missed == tuple(range(num_said, len(truth)))
        num_own = len(parsed.prefix_ids) - parsed.num_retokenized
        assert parsed.is_invalid or tuple(result.target.token_ids[:num_own].tolist()) == ids[:num_own]
        # the cut itself reads as the same objects
        assert [item.to_object() for item in bench.parse(parsed.prefix_ids).objects] == [item.to_object() for item in parsed.objects]
    assert num_said == num_objects


def test_an_answer_that_breaks_off_at_any_token_misses_what_follows_and_nothing_else(benches, long_count) -> None:
    for bench in benches:
        cut_everywhere(bench, long_count(2, 8))


def test_a_long_answer_that_breaks_off_at_any_token_misses_what_follows_and_nothing_else(plain, long_count) -> None:
    cut_everywhere(plain, long_count(10, 45))
