"""Coordinate conversion of records and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.data.convert import convert_file, converted_path, count_clamped, reorder_polygons, to_norm1000, to_pixels, to_space, to_tokens
from coordexp.data.jsonl import read_records, write_records
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record

BOX = DetObject("cat", "bbox_2d", (0, 10.4, 640, 479))
RING = DetObject("sail", "poly", (100, 0, 200, 80, 0, 80))
PIXEL = Record("train:1", "a.png", 640, 480, (BOX, RING), "pixel", summary="s", metadata={"k": 1})


def test_pixels_become_bins_by_the_formula_and_everything_else_stays() -> None:
    bins = to_norm1000(PIXEL)
    assert bins.objects[0].points == (0, round(10.4 / 479 * 999), 999, 999)
    assert (bins.coord_space, bins.summary, bins.metadata, bins.id) == ("norm1000", "s", {"k": 1}, "train:1")
    assert to_tokens(PIXEL).objects == bins.objects
    assert to_tokens(PIXEL).coord_space == "token"


def test_tokens_and_norm1000_hold_the_same_bins() -> None:
    tokens = to_tokens(PIXEL)
    assert to_tokens(to_norm1000(tokens)) == tokens
    assert to_space(tokens, "norm1000") == to_norm1000(PIXEL)


def test_bins_become_pixels_of_the_record_and_come_back() -> None:
    tokens = to_tokens(PIXEL)
    pixels = to_space(tokens, "pixel")
    assert pixels.objects[0].points[2:] == (639, 479)
    assert to_tokens(pixels) == tokens
    assert to_pixels(PIXEL) is PIXEL


def test_outward_rounding_is_handed_on() -> None:
    assert to_norm1000(PIXEL, rounding="outward").objects[0].points == (0, 21, 999, 999)


def test_clamped_values_are_counted_in_pixel_records_only() -> None:
    assert count_clamped(PIXEL) == 1
    assert count_clamped(to_tokens(PIXEL)) == 0


def test_quantized_polygons_are_in_canonical_order_again() -> None:
    ring = DetObject("a", "poly", (10.0, 0.0, 12.0, 5.0, 0.0, 5.0, 1.0, 0.1))
    (item,) = to_norm1000(Record("", "a.png", 1000, 1000, (ring,), "pixel")).objects
    assert item.points == (1, 0, 10, 0, 12, 5, 0, 5)


def test_reordering_changes_only_polygons_that_need_it() -> None:
    assert reorder_polygons(PIXEL) is PIXEL
    turned = Record("", "a.png", 640, 480, (BOX, DetObject("sail", "poly", (200, 80, 100, 0, 0, 80))), "pixel")
    assert reorder_polygons(turned).objects == PIXEL.objects


@pytest.mark.parametrize(
    ("name", "space", "expected"),
    [("train.jsonl", "token", "train.coord.jsonl"), ("val.max60.coord.jsonl", "pixel", "val.max60.pixel.jsonl"), ("a.jsonl", "norm1000", "a.norm1000.jsonl")],
)
def test_the_name_of_a_converted_file_says_its_space(name: str, space: str, expected: str) -> None:
    assert converted_path(Path("x") / name, space) == Path("x") / expected  # type: ignore[arg-type]


def test_a_file_is_converted_there_and_back(tmp_path: Path) -> None:
    write_records(tmp_path / "train.jsonl", [PIXEL])
    summary = convert_file(tmp_path / "train.jsonl", to="token")
    assert summary.output == tmp_path / "train.coord.jsonl"
    assert summary.sentence() == "1 records, 2 objects, 1 values clamped to the border"
    (record,) = read_records(summary.output)
    assert record.objects == to_tokens(PIXEL).objects
    back = convert_file(summary.output, to="pixel")
    assert back.sentence() == "1 records, 2 objects"
    assert read_records(back.output)[0].objects == to_pixels(to_tokens(PIXEL)).objects


def test_plain_integers_are_converted_when_the_caller_says_what_they_are(tmp_path: Path) -> None:
    line = {"images": ["a.png"], "objects": [{"desc": "cat", "bbox_2d": [0, 0, 500, 500], "score": 1}], "width": 501, "height": 501}
    (tmp_path / "old.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match="plain integers can be pixels or norm1000"):
        convert_file(tmp_path / "old.jsonl", to="token")
    assert [path.name for path in tmp_path.iterdir()] == ["old.jsonl"]
    summary = convert_file(tmp_path / "old.jsonl", to="token", coord_space="pixel")
    assert read_records(summary.output)[0].objects[0].points == (0, 0, 999, 999)
    assert "1 times the key objects[].score was not carried over" in summary.sentence()


def test_polygons_out_of_order_are_refused_or_reordered_and_counted(tmp_path: Path) -> None:
    turned = DetObject("sail", "poly", (200, 80, 100, 0, 0, 80))
    write_records(tmp_path / "train.jsonl", [Record("", "a.png", 640, 480, (turned,), "pixel")])
    with pytest.raises(DataError, match="--reorder-polygons"):
        convert_file(tmp_path / "train.jsonl", to="token")
    summary = convert_file(tmp_path / "train.jsonl", to="pixel", reorder=True)
    assert summary.num_reordered == 1
    assert read_records(summary.output)[0].objects == (RING,)


def test_the_output_stays_beside_its_source_and_off_it(tmp_path: Path) -> None:
    write_records(tmp_path / "train.jsonl", [PIXEL])
    with pytest.raises(DataError, match="the output must lie in the folder of its source"):
        convert_file(tmp_path / "train.jsonl", to="token", output=tmp_path / "x" / "train.jsonl")
    with pytest.raises(DataError, match="the output would replace its source"):
        convert_file(tmp_path / "train.jsonl", to="token", output=tmp_path / "train.jsonl")
