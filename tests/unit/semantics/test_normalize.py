from __future__ import annotations

import pytest

from coordexp.semantics.normalize import normalize_label


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Traffic_Light", "traffic light", id="case_and_underscore"),
        pytest.param("wineglass_(stem)/cup", "wineglass stem cup", id="brackets_and_slash"),
        pytest.param(" \tdining \n table ", "dining table", id="white_space"),
        pytest.param("_/()", "", id="nothing_left"),
        pytest.param("t-shirt", "t-shirt", id="hyphen_stays"),
    ],
)
def test_labels_are_compared_without_case_separators_and_extra_space(text: str, expected: str) -> None:
    assert normalize_label(text) == expected
    assert normalize_label(expected) == expected
