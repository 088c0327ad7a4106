from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.codec.scanner import Kind, Scan, Stop, read_string, scan_value

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@settings(max_examples=6 * settings().max_examples)
@given(text=st.text('{}[]",:\\ 01-.eEtru\nfalsn', max_size=14))
def test_the_scanner_takes_exactly_what_the_json_module_takes(text: str) -> None:
    scan = scan_value(text)
    is_complete = scan.stop is Stop.COMPLETE and not text[scan.position :].strip(" \t\n\r")
    assert is_complete == is_json(text)


@given(value=JSON_VALUES, is_ascii=st.booleans(), indent=st.sampled_from([None, 1]))
def test_the_tree_holds_every_value_where_it_stands(value: object, is_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    scan = scan_value(text)
    assert scan.root is not None
    for node in scan.root.walk():
        found = json.loads(text[node.start : node.end])
        assert len(node.children) == (len(found) if isinstance(found, dict | list) else 0)
        if node.kind is Kind.OBJECT:
            assert [json.loads(text[slice(*child.key)]) for child in node.children] == list(found)


@given(value=st.lists(JSON_VALUES, min_size=1, max_size=3))
def test_every_beginning_of_a_valid_text_is_truncated_and_not_an_error(value: object) -> None:
    text = json.dumps(value)
    assert {scan_value(text[:end]).stop for end in range(len(text))} == {Stop.TRUNCATED}


@pytest.mark.parametrize(
    ("text", "position"),
    [('{"a" 1}', 5), ('{"a": 01}', 6), ('{"a": "x\ny"}', 6), ("[1 2]", 3), ("[1,]", 3), ('{"a": 1,}', 8), ("{]", 1), ('{"a": }', 6), (r'["\x"]', 1)],
)
def test_an_error_names_the_first_character_that_json_does_not_allow(text: str, position: int) -> None:
    scan = scan_value(text)
    assert (scan.stop, scan.position) == (Stop.ERROR, position)


@pytest.mark.parametrize("text", ["[1,]", '{"a": 1,}', '{"a": [1, ], }'])
def test_a_comma_before_the_closing_bracket_is_taken_when_allowed(text: str) -> None:
    assert scan_value(text, allow_trailing_commas=True).stop is Stop.COMPLETE


@pytest.mark.parametrize("text", ["[,]", "{,}", "[1,,]", '{"a",}', '{"a":,}'])
def test_other_commas_stay_errors_also_then(text: str) -> None:
    assert scan_value(text, allow_trailing_commas=True).stop is Stop.ERROR


def test_what_was_open_at_the_end_stays_open_in_the_tree() -> None:
    scan = scan_value('{"a": {"b": [1, 23')
    assert scan.root is not None
    assert [(node.kind, node.is_closed) for node in scan.root.walk()] == [
        (Kind.OBJECT, False),
        (Kind.OBJECT, False),
        (Kind.ARRAY, False),
        (Kind.SCALAR, True),
        (Kind.SCALAR, False),
    ]


def test_escapes_read_as_the_json_module_reads_them_and_a_lone_surrogate_as_a_replacement() -> None:
    text = r'"a\"\\\u00e9\ud83d\ude42\ud800"'
    assert read_string(text, (0, len(text))) == 'a"\\é🙂\ufffd'


def _seconds(text: str) -> tuple[float, Scan]:
    start = time.process_time()
    scan = scan_value(text)
    return time.process_time() - start, scan


@pytest.mark.parametrize(
    "unit",
    ['{"a": ', "[", '[{"object_1": [', '"a\\\\', '{"a": 1} ', "1", ' {"', '["a", '],
    ids=["objects", "lists", "mixed", "escapes", "blocks", "digits", "quotes", "row"],
)
def test_time_is_linear_for_deep_and_for_broken_texts(unit: str) -> None:
    times = [min(_seconds(unit * (2**step * 1000))[0] for _ in range(3)) + 1e-4 for step in (0, 3)]
    assert times[1] < 8 * 4 * times[0]
