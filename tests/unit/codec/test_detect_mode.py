from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.codec.detect_mode import detect_mode

CASES = json.loads(Path(__file__, "../../../fixtures/parity/inference/detect_mode.json").resolve().read_text())


def record(*values: object) -> dict[str, object]:
    return {"width": 640, "height": 480, "objects": [{"desc": "a", "bbox_2d": list(values)}]}


PIXELS, TOKENS, BEYOND = record(1, 2, 3, 640), record("<|coord_1|>", "<|coord_2|>", "<|coord_3|>", "<|coord_4|>"), record(1, 2, 3, 641)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_recorded_decisions_are_kept(case) -> None:
    found = detect_mode(case["records"], max_records=128)
    assert [found.mode, found.reason] == case["result"]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([PIXELS], "within_image_bounds"),
        ([PIXELS, BEYOND], "points_exceed_image"),
        ([BEYOND, TOKENS], "coord_tokens_found"),
        ([PIXELS, {"width": 9, "height": 9, "objects": [{"poly": [["<|coord_1|>", "<|coord_2|>"]]}]}], "coord_tokens_found"),
        ([record("a word", None, True, [])], "within_image_bounds"),
    ],
)
def test_a_token_decides_before_a_size_and_a_size_before_nothing(records: list[dict[str, object]], reason: str) -> None:
    assert detect_mode(records, max_records=128).reason == reason


@pytest.mark.parametrize("bad", [{"width": 0}, {"height": None}, {"width": "wide"}, {"objects": []}, {"objects": "x"}])
def test_invalid_records_are_passed_over_and_do_not_use_up_the_sample(bad: dict[str, object]) -> None:
    assert detect_mode([BEYOND | bad, TOKENS], max_records=1).reason == "coord_tokens_found"
    assert detect_mode([BEYOND | bad], max_records=1).reason == "no_valid_records"


def test_only_the_first_records_are_looked_at() -> None:
    found = detect_mode([PIXELS, PIXELS, TOKENS], max_records=2)
    assert (found.mode, found.num_records) == ("text", 2)
