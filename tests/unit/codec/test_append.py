from __future__ import annotations

import json

import pytest

from coordexp.codec.append import allocate_indices, continuation
from coordexp.codec.serialize import with_end
from coordexp.types.records import DetObject
from coordexp.types.rollouts import ParsedRollout
from coordexp.types.sequences import Role

CAT = DetObject("cat", "bbox_2d", (1, 2, 3, 4))
DOG = DetObject("dog", "poly", (1, 2, 3, 4, 5, 6))


def parsed(prefix: str, indices: tuple[int, ...], *, max_index: int) -> ParsedRollout:
    return ParsedRollout(
        objects=(),
        dropped=(),
        num_ambiguous=0,
        prefix_ids=(),
        prefix_text=prefix,
        prefix_ends_with_object=len(prefix) > 1,
        max_index=max_index,
        is_truncated=False,
        is_invalid=False,
        entry_indices=indices,
    )


EMPTY = parsed("{", (), max_index=0)
SEVEN = parsed('{"object_1": {}, "object_7": {}', (1, 7), max_index=7)


@pytest.mark.parametrize(
    ("before", "objects", "text"),
    [
        (EMPTY, [], "}"),
        (SEVEN, [], "}"),
        (EMPTY, [CAT], '"object_1": {"desc": "cat", "bbox_2d": [1, 2, 3, 4]}}'),
        (SEVEN, [CAT], ', "object_8": {"desc": "cat", "bbox_2d": [1, 2, 3, 4]}}'),
    ],
)
def test_a_comma_leads_exactly_when_objects_follow_an_object(before: ParsedRollout, objects: list[DetObject], text: str) -> None:
    assert continuation(before, objects, coord_mode="text").text == text


def test_missed_objects_keep_their_order_and_take_the_next_keys() -> None:
    whole = json.loads(SEVEN.prefix_text + continuation(SEVEN, [DOG, CAT]).text)
    assert [(key, value["desc"]) for key, value in list(whole.items())[2:]] == [("object_8", "dog"), ("object_9", "cat")]


def test_a_key_that_stands_in_the_prefix_is_never_given_twice() -> None:
    assert allocate_indices(parsed("{…", (1, 102, 104), max_index=1), 103)[-3:] == (103, 105, 106)


def test_spans_of_the_continuation_name_the_closing_brace_and_the_end() -> None:
    added = with_end(continuation(SEVEN, [CAT]))
    assert [(added.text[span.start : span.end], span.role) for span in added.spans[-2:]] == [("}", Role.CLOSE), ("<|im_end|>", Role.END)]
    assert [span.start for span in added.spans] == [0, *(span.end for span in added.spans[:-1])]
