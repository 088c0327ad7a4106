"""Boxes: IoU, validity, corners."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from coordexp.geometry.boxes import as_box_array, box_area, box_iou, order_corners, xywh_to_xyxy


def test_iou_of_every_pair_equals_pycocotools() -> None:
    rng = np.random.default_rng(3)
    a, b = (np.sort(rng.uniform(0, 100, (n, 2, 2)), axis=1).reshape(n, 4) for n in (40, 30))
    to_xywh = lambda boxes: np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)  # noqa: E731
    expected = coco_mask.iou(to_xywh(a), to_xywh(b), [0] * len(b))
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3, id="half-shared"),
        pytest.param((0, 0, 2, 2), (2, 0, 4, 2), 0.0, id="touching"),
        pytest.param((0, 0, 2, 2), (5, 5, 6, 6), 0.0, id="apart"),
        pytest.param((1, 1, 1, 1), (1, 1, 1, 1), 0.0, id="two-points"),
        pytest.param((0, 0, 2, 2), (0, 0, 2, 2), 1.0, id="equal"),
    ],
)
def test_iou_of_one_pair(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert box_iou([a], [b])[0, 0] == pytest.approx(expected)


def test_no_boxes_give_an_empty_matrix_of_the_right_shape() -> None:
    assert box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert box_iou([[0, 0, 1, 1]], []).shape == (1, 0)


def test_areas_and_corners() -> None:
    assert box_area([[0, 0, 3, 2], [1, 1, 1, 5]]).tolist() == [6, 0]
    assert order_corners((5, 1, 2, 3)) == (2, 1, 5, 3)
    assert xywh_to_xyxy((10, 20, 5, 2)) == (10, 20, 15, 22)


def test_an_array_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes of shape \(1, 3\)"):
        as_box_array([[1, 2, 3]])
