from __future__ import annotations

import json

import pytest

from coordexp.codec.append import allocate_indices, continuation
from coordexp.codec.prompts import CoordMode
from coordexp.codec.serialize import AssistantText, with_end
from coordexp.types.records import DetObject
from coordexp.types.sequences import Role

CAT = DetObject("cat", "bbox_2d", (1, 2, 3, 4))
DOG = DetObject("dog", "poly", (1, 2, 3, 4, 5, 6))


EMPTY = ("{", ())
SEVEN = ('{"object_1": {}, "object_7": {}', (1, 7))
Before = tuple[str, tuple[int, ...]]


def go_on(before: Before, objects: list[DetObject], *, coord_mode: CoordMode = "coord") -> AssistantText:
    indices = allocate_indices(before[1], num_entries=len(before[1]), num_objects=len(objects))
    return continuation(objects, indices=indices, follows_entry=bool(before[1]), coord_mode=coord_mode)


@pytest.mark.parametrize(
    ("before", "objects", "text"),
    [
        (EMPTY, [], "}"),
        (SEVEN, [], "}"),
        (EMPTY, [CAT], '"object_1": {"desc": "cat", "bbox_2d": [1, 2, 3, 4]}}'),
        (SEVEN, [CAT], ', "object_8": {"desc": "cat", "bbox_2d": [1, 2, 3, 4]}}'),
    ],
)
def test_a_comma_leads_exactly_when_objects_follow_an_object(before: Before, objects: list[DetObject], text: str) -> None:
    assert go_on(before, objects, coord_mode="text").text == text


def test_missed_objects_keep_their_order_and_take_the_next_keys() -> None:
    whole = json.loads(SEVEN[0] + go_on(SEVEN, [DOG, CAT]).text)
    assert [(key, value["desc"]) for key, value in list(whole.items())[2:]] == [("object_8", "dog"), ("object_9", "cat")]


def test_a_key_that_stands_in_the_prefix_is_never_given_twice() -> None:
    assert allocate_indices((1, 105, 107), num_entries=3, num_objects=106)[-4:] == (104, 106, 108, 109)


def test_spans_of_the_continuation_name_the_closing_brace_and_the_end() -> None:
    added = with_end(go_on(SEVEN, [CAT]))
    assert [(added.text[span.start : span.end], span.role) for span in added.spans[-2:]] == [("}", Role.CLOSE), ("<|im_end|>", Role.END)]
    assert [span.start for span in added.spans] == [0, *(span.end for span in added.spans[:-1])]
