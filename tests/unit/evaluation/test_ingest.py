"""Input rules: what is read, what is left out and under which reason; nothing stops the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.evaluation.columns import COUNTERS
from coordexp.evaluation.ingest import ingest_file, ingest_records
from coordexp.evaluation.objects import COUNTER_OF, Reason
from coordexp.types.errors import DataError

BOX = [10, 10, 50, 50]
RING = [10, 10, 50, 10, 50, 50]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"bbox_2d": BOX, "poly": RING, "desc": "a"}, "geometry_keys"),
        ({"desc": "a"}, "geometry_keys"),
        ("not an object", "geometry_keys"),
        ({"type": "line", "points": [1, 1, 9, 9], "desc": "a"}, "geometry_kind"),
        ({"line": [1, 1, 9, 9], "desc": "a"}, "geometry_kind"),
        ({"type": "bbox_2d", "points": "10 10 50 50", "desc": "a"}, "geometry_points"),
        ({"type": "bbox_2d", "points": [[10, 10, 5], [50, 50]], "desc": "a"}, "geometry_points"),
        ({"type": "bbox_2d", "points": None, "desc": "a"}, "geometry_points"),
        ({"type": "bbox_2d", "points": [10, 10, 50], "desc": "a"}, "coord_parse"),
        ({"type": "bbox_2d", "points": ["x", 1, 2, 3], "desc": "a"}, "coord_parse"),
        ({"type": "bbox_2d", "points": [math.nan, 1, 2, 3], "desc": "a"}, "coord_parse"),
        ({"type": "bbox_2d", "points": [1, 1, math.inf, 3], "desc": "a"}, "coord_parse"),
        ({"type": "bbox_2d", "points": ["<|coord_1000|>", 1, 2, 3], "desc": "a"}, "coord_range"),
        ({"type": "bbox_2d", "points": ["<|coord_1|>", 1, 2, 1000], "desc": "a"}, "coord_range"),
        ({"type": "bbox_2d", "points": [], "desc": "a"}, "bbox_points"),
        ({"type": "bbox_2d", "points": [10, 10, 50, 50, 20, 60], "desc": "a"}, "bbox_points"),
        ({"type": "poly", "points": [1, 1, 9, 9], "desc": "a"}, "poly_points"),
        ({"type": "bbox_2d", "points": [50, 50, 10, 10], "desc": "a"}, "degenerate"),
        ({"type": "bbox_2d", "points": [5, 5, 5.4, 9], "desc": "a"}, "degenerate"),
        ({"type": "bbox_2d", "points": [200, 10, 300, 50], "desc": "a"}, "degenerate"),
        ({"type": "bbox_2d", "points": BOX, "desc": 7}, "desc"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_unusable_prediction_is_left_out_with_its_reason_and_neighbours_stay(record: Any, item: Any, reason: str) -> None:
    data = ingest_records([record(pred=[{"bbox_2d": BOX, "desc": "b"}, item])])
    assert len(data.pred) == 1
    assert [(bad.reason, bad.raw) for bad in data.images[0].invalid_pred] == [(reason, item)]
    assert data.counters[COUNTER_OF[Reason(reason)]] == 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[10, 10], [50, 50]], [10, 10, 50, 50]),
        (["10", "10.4", " 50 ", "50"], [10, 10, 50, 50]),
        ([0.5, 1.5, 50.5, 51.5], [0, 2, 50, 52]),
        ([-5, -5, 500, 500], [0, 0, 99, 79]),
        (["<|coord_100|>", "<|coord_125|>", "<|coord_500|>", "<|coord_625|>"], [10, 10, 50, 49]),
        (["<|coord_100|>", 125, 500, 625], [10, 10, 50, 49]),
    ],
    ids=["pairs", "numeric texts", "half to even", "clamped", "tokens", "a token among numbers"],
)
def test_points_become_whole_pixels(record: Any, points: list[Any], expected: list[int]) -> None:
    data = ingest_records([record(pred=[{"type": "bbox_2d", "points": points, "desc": "a"}])])
    assert data.pred.boxes.tolist() == [expected]


def test_norm1000_holds_for_ground_truth_and_predictions(record: Any) -> None:
    item = {"bbox_2d": [0, 0, 999, 999], "desc": "a"}
    data = ingest_records([record([item], [item], coord_mode="norm1000")])
    assert data.gt.boxes.tolist() == data.pred.boxes.tolist() == [[0, 0, 99, 79]]


def test_coord_space_decides_where_coord_mode_is_silent(record: Any) -> None:
    item = {"bbox_2d": [0, 0, 99, 99], "desc": "a"}
    data = ingest_records([record([item], coord_mode=None, coord_space="norm1000")])
    assert data.gt.boxes.tolist() == [[0, 0, 10, 8]]


def test_exact_mode_keeps_fractions_and_prefers_exact_points(record: Any) -> None:
    item = {"type": "bbox_2d", "points": [10, 10, 50, 50], "points_exact": [10.25, 9.75, 50.5, 49.5], "desc": "a"}
    data = ingest_records([record(pred=[item])], pixel_mode="exact")
    assert data.pred.boxes.tolist() == [[10.25, 9.75, 50.5, 49.5]]


def test_a_ground_truth_box_with_swapped_corners_is_put_in_order(record: Any) -> None:
    data = ingest_records([record([{"bbox_2d": [50, 60, 10, 20], "desc": "a"}])])
    assert data.gt.boxes.tolist() == [[10, 20, 50, 60]]


def test_a_record_without_size_keeps_its_image_id(record: Any) -> None:
    data = ingest_records([record(width=None), record(width="x"), record(width=math.inf), record(height=0), record()])
    assert [image.image_id for image in data.images] == [4]
    assert data.counters["missing_size"] == 4


def test_a_record_without_ground_truth_stays_in_its_place(record: Any) -> None:
    data = ingest_records([record(pred=[{"bbox_2d": BOX, "desc": "a"}]), record([{"bbox_2d": BOX, "desc": "a"}])])
    assert data.pred.image.tolist() == [0]
    assert data.gt.image.tolist() == [1]


def test_lines_that_are_not_objects_are_counted_and_blank_ones_are_not(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\ufeff" + json.dumps(record()) + '\n{"image": "bad\n[1,2]\n\n3\n' + json.dumps(record(image="b.png")) + "\n", encoding="utf-8")
    data = ingest_file(path)
    assert [(image.image_id, image.line) for image in data.images] == [(0, 1), (1, 6)]
    assert data.counters["invalid_json"] == 3


def test_strict_parse_names_line_and_snippet(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(record()) + "\n[1,2]\n")
    with pytest.raises(DataError, match=r"p\.jsonl:2: not a JSON object: '\[1,2\]'"):
        ingest_file(path, strict_parse=True)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        ingest_file(tmp_path / "none.jsonl")


def test_nan_written_by_python_costs_the_object_alone(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(record(pred=[{"bbox_2d": [math.nan, 1, 2, 3], "desc": "\ud800"}, {"bbox_2d": BOX, "desc": "a"}])) + "\n")
    data = ingest_file(path)
    assert (len(data.pred), data.counters["invalid_coord"], data.counters["invalid_json"]) == (1, 1, 0)


def test_the_same_image_twice_is_a_warning_with_lines(tmp_path: Path, record: Any) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(record()) + "\n" + json.dumps(record()) + "\n")
    assert ingest_file(path).warnings == ("image 'a.png' stands in line 1 and again in line 2; both count",)


def test_all_counters_are_present_and_several_images_and_empty_predictions_are_counted(record: Any) -> None:
    data = ingest_records([record(image=None, images=["x.png", "y.png"])])
    assert set(data.counters) == set(COUNTERS)
    assert (data.counters["multi_image_ignored"], data.counters["empty_pred"], data.images[0].file_name) == (1, 1, "x.png")


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["<|coord_5|>", "<|coord_2000|>", "7.5"]))
points = st.one_of(scalars, st.lists(st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=8))
items = st.one_of(
    scalars,
    st.lists(scalars, max_size=2),
    st.fixed_dictionaries(
        {}, optional={"type": st.sampled_from(["bbox_2d", "poly", "line", 3]), "points": points, "bbox_2d": points, "desc": scalars, "score": scalars}
    ),
)


@settings(max_examples=3 * settings().max_examples)
@given(gt=st.lists(items, max_size=4), pred=st.lists(items, max_size=4), size=st.tuples(scalars, scalars), exact=st.booleans())
def test_every_object_is_either_used_or_kept_as_invalid(gt: list[Any], pred: list[Any], size: tuple[Any, Any], exact: bool) -> None:
    whole = {"image": "a", "width": 64, "height": 48, "gt": gt, "pred": pred}
    data = ingest_records([whole, {**whole, "width": size[0], "height": size[1]}], pixel_mode="exact" if exact else "int")
    for place, _ in enumerate(data.images):
        used = int((data.gt.image == place).sum()), int((data.pred.image == place).sum())
        assert used[0] + len(data.images[place].invalid_gt) == len(gt)
        assert used[1] + len(data.images[place].invalid_pred) == len(pred)
    assert len(data.images) + data.counters["missing_size"] == 2


coordinates = st.one_of(st.integers(-20, 130), st.floats(-20, 130), st.sampled_from([0.5, 1.5, -0.0, 999, 1000, 1e308]))
plain_items = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["bbox_2d", "poly"]), "points": st.lists(coordinates, min_size=3, max_size=8)}),
    st.fixed_dictionaries({"bbox_2d": st.lists(coordinates, min_size=4, max_size=4)}),
    st.fixed_dictionaries({"poly": st.lists(coordinates, min_size=6, max_size=8), "points": st.just([1, 2])}),
)
plain_objects = st.tuples(
    plain_items,
    st.fixed_dictionaries({"desc": st.sampled_from(["a", " a", "b", ""])}, optional={"score": st.floats(), "points_exact": st.lists(coordinates, max_size=6)}),
).map(lambda parts: parts[0] | parts[1])


@given(
    sides=st.lists(st.tuples(st.lists(plain_objects, max_size=4), st.lists(plain_objects, max_size=4)), max_size=4),
    mode=st.sampled_from(["pixel", "norm1000", None]),
    pixel_mode=st.sampled_from(["int", "exact"]),
)
def test_records_read_at_once_become_the_same_columns_as_piece_by_piece(sides: list[Any], mode: str | None, pixel_mode: Any) -> None:
    records = [{"image": f"{place}", "width": 100, "height": 80, "coord_mode": mode, "gt": gt, "pred": pred} for place, (gt, pred) in enumerate(sides)]
    at_once = ingest_records(records, pixel_mode=pixel_mode)
    one_by_one = ingest_records([{**item, "images": None} for item in records], pixel_mode=pixel_mode)  # a key that is not plain
    assert repr(at_once.images) == repr(one_by_one.images)
    assert at_once.counters == one_by_one.counters
    for fast, slow in ((at_once.gt, one_by_one.gt), (at_once.pred, one_by_one.pred)):
        for name in ("image", "index", "boxes", "scores"):
            np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
        assert [at_once.descs[code] for code in fast.desc.tolist()] == [one_by_one.descs[code] for code in slow.desc.tolist()]
        assert {row: ring.tolist() for row, ring in fast.polygons.items()} == {row: ring.tolist() for row, ring in slow.polygons.items()}


def test_rows_stand_in_image_order_whichever_way_their_records_were_read(record: Any) -> None:
    plain, nested = {"bbox_2d": BOX, "desc": "a"}, {"bbox_2d": [[10, 10], [50, 50]], "desc": "a"}
    data = ingest_records([record([nested]), record([plain]), record([plain, {"bbox_2d": [5, 5, 5, 5], "desc": "a"}, plain]), record([nested, plain])])
    assert data.gt.image.tolist() == [0, 1, 2, 2, 3, 3]
    assert data.gt.index.tolist() == [0, 0, 0, 2, 0, 1]
