"""Polygons: canonical order, area, masks, outlines of masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from coordexp.geometry.contours import mask_to_rings
from coordexp.geometry.masks import mask_iou, ring_to_mask, rings_to_rle, rle_to_mask
from coordexp.geometry.polygons import box_to_ring, canonical_ring, is_canonical, ring_area, ring_to_box, signed_area

SQUARE = (0, 0, 4, 0, 4, 4, 0, 4)
ARROW = (2, 0, 6, 4, 2, 2, 0, 6)
"""Concave, clockwise, from the top."""


def rotations(ring: tuple[float, ...]) -> list[tuple[float, ...]]:
    pairs = list(zip(ring[::2], ring[1::2], strict=True))
    orders = [pairs[i:] + pairs[:i] for i in range(len(pairs))]
    return [tuple(value for pair in order for value in pair) for order in orders + [order[::-1] for order in orders]]


@pytest.mark.parametrize("ring", [SQUARE, ARROW], ids=["square", "concave"])
def test_every_spelling_of_an_outline_has_one_canonical_form(ring: tuple[float, ...]) -> None:
    assert {canonical_ring(spelling) for spelling in rotations(ring)} == {ring}
    assert {canonical_ring((*spelling, *spelling[:2])) for spelling in rotations(ring)} == {ring}


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=8))
def test_canonical_order_is_idempotent_even_for_degenerate_rings(vertices: list[tuple[int, int]]) -> None:
    ring = tuple(value for vertex in vertices for value in vertex)
    once = canonical_ring(ring)
    assert canonical_ring(once) == once
    assert is_canonical(once)
    assert ring_area(once) == ring_area(ring)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)), min_size=3, max_size=8))
def test_canonical_order_of_real_coordinates_is_idempotent(vertices: list[tuple[float, float]]) -> None:
    once = canonical_ring(tuple(value for vertex in vertices for value in vertex))
    assert canonical_ring(once) == once


def test_areas_and_boxes_of_rings() -> None:
    assert signed_area(SQUARE) == 16
    assert signed_area((0, 0, 0, 4, 4, 4, 4, 0)) == -16
    assert (ring_area(ARROW), ring_to_box(ARROW)) == (6, (0, 0, 6, 6))
    assert box_to_ring((1, 2, 3, 5)) == canonical_ring((3, 5, 1, 5, 1, 2, 3, 2))


@pytest.mark.parametrize("ring", [(0, 0, 1, 1), (0, 0, 1, 1, 2, 2, 3)], ids=["two-vertices", "odd"])
def test_fewer_than_three_vertices_are_no_ring(ring: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="3 or more vertices"):
        canonical_ring(ring)


def test_mask_iou_counts_pixels_as_pycocotools_does() -> None:
    rings = [box_to_ring(box) for box in ((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 25, 25))]
    assert mask_iou(rings[:1], rings, width=32, height=32).tolist() == [[1.0, pytest.approx(1 / 3), 0.0]]
    assert mask_iou([], rings, width=32, height=32).shape == (0, 3)
    assert rings_to_rle([], width=32, height=32) == []


def random_mask(seed: int, density: float) -> np.ndarray:
    return np.random.default_rng(seed).random((13, 17)) < density


@pytest.mark.parametrize("density", [0.0, 0.05, 0.4, 0.9, 1.0])
def test_masks_are_decoded_from_both_spellings_of_runs(density: float) -> None:
    mask = random_mask(1, density)
    packed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = mask.flatten(order="F")
    runs = [len(list(group)) for _, group in itertools.groupby(flat)]
    runs = runs if not flat[0] else [0, *runs]
    size = list(mask.shape)
    assert (rle_to_mask({"size": size, "counts": packed["counts"].decode()}) == mask).all()
    assert (rle_to_mask({"size": size, "counts": runs}) == mask).all()


@pytest.mark.parametrize("counts", [[5, 5], [300], "0000", "abc~~~", [-1, 222], "\u00fc"])
def test_runs_that_do_not_fill_the_image_are_refused(counts: object) -> None:
    with pytest.raises(ValueError, match=r"fill|character"):
        rle_to_mask({"size": [13, 17], "counts": counts})


@pytest.mark.parametrize("seed", range(6))
def test_outlines_and_holes_give_the_mask_back(seed: int) -> None:
    mask = random_mask(seed, 0.25 + 0.1 * seed)
    outer, holes = mask_to_rings(mask)
    count = np.zeros(mask.shape, dtype=np.int64)
    for rings, sign in ((outer, 1), (holes, -1)):
        for ring in rings:
            count += sign * ring_to_mask(ring, width=mask.shape[1], height=mask.shape[0])
    assert (count == mask).all()
    assert all(is_canonical(ring) for ring in outer + holes)


def test_an_outline_has_only_corners_and_the_largest_comes_first() -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[1:4, 2:7] = True
    mask[6, 0] = True
    outer, holes = mask_to_rings(mask)
    assert outer == [(2, 1, 7, 1, 7, 4, 2, 4), (0, 6, 1, 6, 1, 7, 0, 7)]
    assert holes == []


def test_pixels_that_touch_at_a_corner_are_two_outlines() -> None:
    outer, _ = mask_to_rings(np.eye(2, dtype=bool))
    assert outer == [(0, 0, 1, 0, 1, 1, 0, 1), (1, 1, 2, 1, 2, 2, 1, 2)]
