from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.codec.salvage import salvage_text
from coordexp.codec.serialize import serialize_objects
from coordexp.types.records import DetObject
from coordexp.types.rollouts import SalvagedText

BOX = '"bbox_2d": ["<|coord_1|>", "<|coord_2|>", "<|coord_30|>", "<|coord_40|>"]'
FIXTURES = Path(__file__, "../../../fixtures/parity/inference").resolve()
CASES = {case["name"]: case for case in json.loads((FIXTURES / "parse_cases.json").read_text())}


def descs(text: str) -> list[str]:
    return [item.desc for item in salvage_text(text).objects]


def broken(text: str) -> dict[str, int]:
    return dict(salvage_text(text).broken)


def as_recorded(salvaged: SalvagedText) -> list[dict[str, object]]:
    """In the recorded form: whole numbers, and floats that were rounded when they were read."""
    return [
        {"desc": item.desc, "type": item.kind, "points": [round(value) for value in item.values], "_had_tokens": item.is_tokens} for item in salvaged.objects
    ]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_recorded_reading_is_kept_but_in_order_of_appearance(case) -> None:
    found = as_recorded(salvage_text(case["text"]))
    if case["name"] == "token_over_999":  # the recorded reader gave up; here one bad object never costs its neighbour
        assert found == [{"desc": "dog", "type": "bbox_2d", "points": [1, 2, 30, 40], "_had_tokens": True}]
        return
    recorded = case["parsed"]
    if case["name"] == "order_10_before_2":
        recorded = sorted(recorded, key=lambda item: int(item["desc"][1:]))
    assert found == recorded


def test_values_stay_as_they_were_written() -> None:
    (item,) = salvage_text('{"object_1": {"desc": "a", "bbox_2d": [0.25, 2, "30", 1e2]}}').objects
    assert (item.values, item.is_tokens) == ((0.25, 2, 30, 100), False)


@given(desc=st.text(st.characters(exclude_categories=["Cs"]), max_size=12), rest=st.text(max_size=12))
def test_spans_point_at_what_was_read(desc: str, rest: str) -> None:
    text = f"{rest.replace('{', '').replace('[', '')}{serialize_objects([DetObject(desc, 'poly', (1, 2, 3, 4, 5, 6))]).text}"
    (item,) = salvage_text(text).objects
    assert json.loads(f'"{text[slice(*item.desc_chars)]}"') == item.desc == desc
    assert [text[slice(*span)] for span in item.coord_chars] == [f"<|coord_{k}|>" for k in item.values]
    assert json.loads(text[slice(*item.char_span)])["desc"] == desc


@pytest.mark.parametrize(
    "bad",
    [
        f'{{"desc": "5" screen", {BOX}}}',
        f'{{"desc": "no end, {BOX}}}',
        f'{{"desc": "a" {BOX}}}',
        f'{{desc: "a", {BOX}}}',
        '{"desc": "a", "bbox_2d": [1, 2, 3',
        '{"desc": "a", "bbox_2d": [1, 2, 3}}',
        f'{{"desc": "\\x", {BOX}}}',
        '{"desc": "a", "bbox_2d": ["<|coord_1000|>", 1, 2, 3]}',
        '{"desc": "a", "line": [1, 2, 3, 4]}',
        "nothing",
        "[1, 2]",
    ],
)
def test_one_bad_object_never_loses_its_neighbours_and_is_counted(bad: str) -> None:
    text = f'{{"object_1": {{"desc": "first", {BOX}}}, "object_2": {bad}, "object_3": {{"desc": "last", {BOX}}}}}'
    assert descs(text) == ["first", "last"]
    assert sum(broken(text).values()) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('{"desc": "a", "line": [1, 2, 3, 4]}', "geometry_kind"),
        ('{"desc": "a"}', "geometry_keys"),
        (f'{{"desc": "a", {BOX}, "poly": [1, 2, 3, 4, 5, 6]}}', "geometry_keys"),
        ('{"desc": "a", "bbox_2d": []}', "geometry_points"),
        ('{"desc": "a", "bbox_2d": 7}', "geometry_points"),
        ('{"desc": "a", "bbox_2d": [1, 2, 3, "x"]}', "coord_parse"),
        ('{"desc": "a", "bbox_2d": [1, 2, 3, null]}', "coord_parse"),
        ('{"desc": "a", "bbox_2d": [1, 2, 3, 1e999]}', "coord_parse"),
        ('{"desc": "a", "bbox_2d": [1, 2, 3, NaN]}', "invalid_json"),
        (f'{{"desc": ["a"], {BOX}}}', "desc_not_text"),
        ("7", "not_an_object"),
        ("oops", "invalid_json"),
    ],
)
def test_what_cannot_be_read_is_counted_by_its_reason(value: str, reason: str) -> None:
    assert (descs(f'{{"object_1": {value}}}'), broken(f'{{"object_1": {value}}}')) == ([], {reason: 1})


def test_an_object_that_swallowed_its_neighbour_gives_both() -> None:
    assert descs(f'{{"object_1": {{"desc": "a", {BOX}, "object_2": {{"desc": "b", {BOX}}}}}') == ["a", "b"]


def test_a_brace_too_many_does_not_end_the_answer_but_its_end_does() -> None:
    one = f'{{"desc": "a", {BOX}}}'
    assert descs(f'{{"object_1": {one}}}, "object_2": {one}}}') == ["a", "a"]
    assert broken(f'{{"object_1": {one}}} {{"object_2": {one}, "object_3": {one}}}') == {"after_answer": 2}


def test_prose_and_brackets_before_the_answer_are_passed_over() -> None:
    assert descs(f'I see [2] things {{maybe}}: ```json\n{{"object_1": {{"desc": "a", {BOX}}}}}\n``` Done [1].') == ["a"]


def test_what_follows_the_end_token_is_not_read() -> None:
    assert descs(f'{{}}<|im_end|>{{"object_1": {{"desc": "a", {BOX}}}}}') == []


@pytest.mark.parametrize(
    ("text", "is_truncated"),
    [
        ("", False),
        ("no objects", False),
        ("{}", False),
        ("{", True),
        ('{"object_1": {"desc": "a", "bbox_2d": [1, 2, 3, 4]}', True),
        ('{"object_1": {"desc": "a" b", "bbox_2d": [1, 2, 3, 4]}}', False),
        ('{"object_1": {"desc": "a" b", "bbox_2d": [1, 2', True),
        ('```{"object_1": {"desc": "a", "bbox_2d": [1, 2, 3, 4]}}```', False),
    ],
)
def test_a_text_that_was_not_closed_is_truncated(text: str, is_truncated: bool) -> None:
    assert salvage_text(text).is_truncated == is_truncated


def test_truncated_at_every_character_all_complete_objects_count() -> None:
    objects = [DetObject(f'"{number}" }}', "bbox_2d", (1, 2, 3, number)) for number in range(8)]
    text = serialize_objects(objects).text
    ends = [item.char_span[1] for item in salvage_text(text).objects]
    assert len(ends) == 8
    for end in range(len(text)):
        salvaged = salvage_text(text[:end])
        assert len(salvaged.objects) == sum(last <= end for last in ends)
        assert salvaged.is_truncated == (end > 0)


@settings(max_examples=2 * settings().max_examples)
@given(parts=st.lists(st.sampled_from(['"object_1": ', "{", "}", "[", "]", '"', "\\", ",", '"desc": ', '"a"', BOX, '"line": ', "1", "\n", "<|im_end|>", "é"])))
def test_no_text_makes_the_reader_fail(parts: list[str]) -> None:
    salvaged = salvage_text("".join(parts))
    assert len(salvaged.objects) + sum(count for _, count in salvaged.broken) <= len(parts)


def _seconds(text: str) -> float:
    start = time.process_time()
    salvage_text(text)
    return time.process_time() - start


@pytest.mark.parametrize("unit", ['{"object_1": ', '"object_1": {"desc": ', '{"a" ', '[{"b\n', '"object_1": "', f'"object_1": {{"desc": "a" {BOX}}}, '])
def test_time_is_linear_for_texts_that_are_all_errors(unit: str) -> None:
    short, long = (min(_seconds(unit * num_units) for _ in range(3)) for num_units in (300, 2400))
    assert long < 8 * 4 * short
