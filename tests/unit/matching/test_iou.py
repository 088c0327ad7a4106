from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.geometry.masks import ring_to_mask
from coordexp.matching.iou import bounding_boxes, object_iou, raster_bound
from coordexp.types.records import DetObject

BOXES = st.builds(
    lambda x, y, w, h: DetObject("", "bbox_2d", (x, y, min(x + w, 999), min(y + h, 999))),
    st.integers(0, 999),
    st.integers(0, 999),
    st.integers(0, 600),
    st.integers(0, 600),
)


def box(*points: float) -> DetObject:
    return DetObject("", "bbox_2d", points)


def test_boxes_are_compared_by_their_corners_in_any_order() -> None:
    assert object_iou([box(300, 300, 100, 100)], [box(100, 100, 300, 300), box(200, 100, 400, 300)]).tolist() == [[1.0, pytest.approx(1 / 3)]]


def test_a_box_without_area_overlaps_only_itself() -> None:
    assert object_iou([box(5, 5, 5, 9)], [box(5, 5, 5, 9), box(0, 0, 9, 9)]).tolist() == [[1.0, 0.0]]


def test_a_polygon_is_drawn_and_two_boxes_are_not() -> None:
    triangle = DetObject("", "poly", (0, 0, 999, 0, 0, 999))
    matrix = object_iou([triangle, box(0, 0, 100, 100)], [triangle, box(0, 0, 999, 999), box(0, 0, 101, 100)])
    pixels = ring_to_mask((0, 0, 256, 0, 0, 256), width=256, height=256).sum()
    assert matrix[0, :2].tolist() == [1.0, pixels / 256**2]
    assert matrix[1, 2] == 100 / 101


def test_a_concave_polygon_is_not_its_box() -> None:
    corner = DetObject("", "poly", (0, 0, 900, 0, 900, 300, 300, 300, 300, 900, 0, 900))
    assert object_iou([corner], [box(0, 0, 900, 900)])[0, 0] == pytest.approx(5 / 9, abs=0.01)


def test_no_objects_make_an_empty_matrix() -> None:
    assert (object_iou([], [box(0, 0, 1, 1)]).shape, object_iou([box(0, 0, 1, 1)], []).shape, bounding_boxes([]).shape) == ((0, 1), (1, 0), (0, 4))


@given(a=st.lists(BOXES, min_size=1, max_size=4), b=st.lists(BOXES, min_size=1, max_size=4), resolution=st.sampled_from([64, 256, 1024]))
def test_drawn_and_exact_iou_differ_by_no_more_than_the_stated_bound(a: list[DetObject], b: list[DetObject], resolution: int) -> None:
    difference = np.abs(object_iou(a, b, iou="mask", resolution=resolution) - object_iou(a, b))
    assert (difference <= raster_bound(bounding_boxes(a), bounding_boxes(b), resolution=resolution) + 1e-12).all()


def test_the_bound_shrinks_with_the_canvas() -> None:
    pair = bounding_boxes([box(100, 100, 500, 500)]), bounding_boxes([box(150, 100, 550, 500)])
    coarse, fine = (raster_bound(*pair, resolution=resolution)[0, 0] for resolution in (256, 4096))
    assert 0 < fine < coarse / 10 < 0.1
