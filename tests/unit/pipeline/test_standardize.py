"""Predicted objects in pixels: the recorded cases of an established pipeline, and the properties that make them right."""

import json
from pathlib import Path

import pytest

from coordexp.codec.salvage import salvage_text
from coordexp.pipeline.standardize import ObjectError, ground_truth, standardize
from coordexp.types.records import DetObject, Record
from coordexp.types.rollouts import SalvagedObject

CASES = json.loads((Path(__file__).parents[2] / "fixtures/parity/inference/parse_cases.json").read_text())
RECORDED = [
    pytest.param(case["text"], setting, expected, id=f"{case['name']}-{setting}")
    for case in CASES
    if "parsed" in case
    for setting, expected in case["standardized"].items()
]


def thing(*values: float, kind: str = "bbox_2d", is_tokens: bool = True) -> SalvagedObject:
    return SalvagedObject("thing", kind, tuple(values), is_tokens, (0, 0), (0, 0), ())


@pytest.mark.parametrize(("text", "setting", "expected"), RECORDED)
def test_recorded_answers_give_the_recorded_pixels_and_errors(text: str, setting: str, expected: dict) -> None:
    mode, pred_coord_mode, size = setting.split("|")
    width, height = map(int, size.split("x"))
    objects = salvage_text(text).objects
    result = standardize(objects, mode=mode, pred_coord_mode=pred_coord_mode, width=width, height=height)
    ours = [(item.kind, list(item.points), objects[item.index].desc) for item in result.objects]
    theirs = [(item["type"], item["points"], item["desc"]) for item in expected["pred"]]
    assert sorted(ours) == sorted(theirs)
    assert [*result.errors, *(() if ours else ("empty_pred",))] == expected["errors"]


def test_a_bad_token_costs_only_its_object() -> None:
    text = next(case["text"] for case in CASES if case["name"] == "token_over_999")
    result = standardize(salvage_text(text).objects, mode="coord", pred_coord_mode="auto", width=640, height=480)
    assert [item.points for item in result.objects] == [(1, 1, 19, 19)]


def test_bins_become_pixels_with_the_one_denominator_and_keep_their_fractions() -> None:
    result = standardize([thing(0, 1, 999, 998)], mode="coord", pred_coord_mode="auto", width=640, height=481)
    assert result.objects[0].points == (0, 0, 639, 480)
    assert result.objects[0].points_exact == pytest.approx((0, 480 / 999, 639, 998 / 999 * 480))


def test_halves_are_rounded_to_even() -> None:
    result = standardize([thing(0.5, 1.5, 2.5, 3.5, is_tokens=False)], mode="text", pred_coord_mode="pixel", width=64, height=64)
    assert result.objects[0].points == (0, 2, 2, 4)


@pytest.mark.parametrize(
    ("values", "kind", "error"),
    [
        ((30, 5, 10, 50), "bbox_2d", ObjectError.DEGENERATE),
        ((10, 5, 12, 50), "bbox_2d", ObjectError.DEGENERATE),
        ((10, 5, 200), "bbox_2d", ObjectError.BBOX_POINTS),
        ((10, 5, 200, 5, 300), "poly", ObjectError.POLY_POINTS),
        ((10, 5, 200, 5, 400, 5), "poly", ObjectError.DEGENERATE),
        ((10, 5, 200, float("inf")), "bbox_2d", ObjectError.COORD_PARSE),
        ((10, 5, 200, 1000), "bbox_2d", ObjectError.COORD_RANGE),
    ],
    ids=["swapped", "thin", "three values", "odd polygon", "flat polygon", "infinite", "beyond the last bin"],
)
def test_what_cannot_be_used_is_named_and_leaves_its_neighbour(values, kind: str, error: ObjectError) -> None:
    result = standardize([thing(*values, kind=kind), thing(0, 0, 500, 500)], mode="coord", pred_coord_mode="auto", width=100, height=100)
    assert result.errors == (error,)
    assert [item.index for item in result.objects] == [1]


def test_one_answer_is_read_in_one_space() -> None:
    objects = [thing(100, 100, 600, 600), thing(1, 2, 30, 40, is_tokens=False)]
    result = standardize(objects, mode="text", pred_coord_mode="auto", width=640, height=480)
    assert result.objects[1].points == (1, 1, 19, 19)


def test_ground_truth_pixels_survive_their_quantization() -> None:
    pixels = Record("v:1", "a.png", 97, 211, (DetObject("cat", "bbox_2d", (3, 7, 96, 209)),), "pixel")
    bins = Record("v:1", "a.png", 97, 211, (DetObject("cat", "bbox_2d", (31, 33, 999, 994)),), "token")
    (from_pixels,), (from_bins,) = ground_truth(pixels), ground_truth(bins)
    assert from_pixels.points == from_bins.points == (3, 7, 96, 209)
    assert from_pixels.points_exact == (3.0, 7.0, 96.0, 209.0)
    assert from_bins.points_exact == pytest.approx((31 / 999 * 96, 33 / 999 * 210, 96, 994 / 999 * 210))


def test_ground_truth_without_extent_is_kept() -> None:
    record = Record("v:1", "a.png", 10, 10, (DetObject("dot", "bbox_2d", (400, 400, 401, 401)),), "norm1000")
    assert ground_truth(record)[0].points == (4, 4, 4, 4)
