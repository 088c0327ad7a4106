"""The answers of a stock model are read wherever they are complete."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.codec.native import native_prompt, read_native

ONE = '{"bbox_2d": [10, 20, 300, 400], "label": "red car"}'
TWO = '{"bbox_2d": [1.5, 2, 3, 4], "label": "K\\u00e4se"}'


def found(text: str) -> list[tuple[str, tuple[float, ...]]]:
    return [(item.desc, item.values) for item in read_native(text).objects]


@pytest.mark.parametrize(
    "text", [f"[{ONE}, {TWO}]", f"```json\n[\n\t{ONE},\n\t{TWO}\n]\n```", f"Here they are: {ONE} and {TWO}.", f"[{ONE}, {TWO}]<|im_end|>[{ONE}]"]
)
def test_entries_count_whatever_stands_around_them(text: str) -> None:
    assert found(text) == [("red car", (10, 20, 300, 400)), ("Käse", (1.5, 2, 3, 4))]
    assert read_native(text).broken == ()


def test_spans_show_the_name_and_the_numbers() -> None:
    (item,) = read_native(f"[{ONE}]").objects
    text = f"[{ONE}]"
    assert text[slice(*item.desc_chars)] == "red car"
    assert [text[slice(*chars)] for chars in item.coord_chars] == ["10", "20", "300", "400"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"[{ONE}, " + '{"bbox_2d": [1, 2', "invalid_json"),
        (f"[{ONE}, " + '{"bbox_2d": [1, "x", 3, 4], "label": "a"}]', "coord_parse"),
        (f"[{ONE}, " + '{"bbox_2d": "here", "label": "a"}]', "geometry_points"),
        (f"[{ONE}, " + '{"bbox_2d": [1, 2, 3, 4], "label": 7}]', "desc_not_text"),
    ],
)
def test_what_cannot_be_read_is_counted_and_costs_no_neighbour(text: str, reason: str) -> None:
    read = read_native(text)
    assert len(read.objects) == 1
    assert read.broken == ((reason, 1),)


def test_other_objects_are_no_detections() -> None:
    assert found('{"point_2d": [1, 2], "label": "a"} {"objects": [' + ONE + "]}") == [("red car", (10, 20, 300, 400))]


@given(st.lists(st.tuples(st.text(max_size=12), st.tuples(*[st.integers(0, 1000)] * 4)), max_size=6), st.integers(0, 300))
def test_every_cut_gives_the_entries_before_it(entries: list[tuple[str, tuple[int, ...]]], cut: int) -> None:
    text = json.dumps([{"bbox_2d": list(box), "label": label} for label, box in entries])
    kept = found(text[:cut])
    # a lone surrogate or an end-of-turn text inside a name ends the answer early; neither can be drawn from plain text here
    assert kept == [(label, tuple(map(float, box))) for label, box in entries][: len(kept)]
    assert len(found(text)) == len(entries)


def test_the_question_names_the_categories() -> None:
    assert native_prompt(None).system == ""
    assert native_prompt(("cat", "<|im_end|>")).user.endswith('categories: "cat, < |im_end|>". Report bbox coordinates in JSON format.')
