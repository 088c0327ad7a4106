"""Coordinate bins: formulas, round trips, and boxes that stay boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.geometry.bins import (
    MAX_BIN,
    NUM_BINS,
    axis_span,
    bins_to_pixels,
    clamp_to_image,
    count_beyond_border,
    encode_norm,
    pixels_to_bins,
)

SIDES = st.integers(1, 10_000)
SHARES = st.floats(0, 1)


def test_there_are_a_thousand_bins_from_edge_to_edge() -> None:
    assert (NUM_BINS, MAX_BIN) == (1000, 999)
    assert (encode_norm(0.0), encode_norm(1.0)) == (0, 999)


@pytest.mark.parametrize(("c", "k"), [(-0.2, 0), (0.5 / 999, 0), (0.51 / 999, 1), (0.5, 500), (1.7, 999)])
def test_a_normalized_coordinate_is_rounded_and_clamped(c: float, k: int) -> None:
    assert encode_norm(c) == k


def test_arrays_and_numbers_agree_in_every_bin() -> None:
    values = np.linspace(-0.1, 1.1, 5001)
    assert encode_norm(values).tolist() == [encode_norm(float(c)) for c in values]
    bins = np.arange(NUM_BINS)
    assert encode_norm(bins / MAX_BIN).tolist() == bins.tolist()


@given(width=SIDES, height=SIDES, shares=st.lists(SHARES, min_size=6, max_size=6))
def test_pixels_survive_the_round_trip_within_half_a_bin(width: int, height: int, shares: list[float]) -> None:
    spans = [axis_span(width), axis_span(height)] * 3
    pixels = [share * span for share, span in zip(shares, spans, strict=True)]
    bins = pixels_to_bins(pixels, kind="poly", width=width, height=height)
    back = bins_to_pixels(bins, width=width, height=height)
    assert all(abs(a - b) <= 0.5 / MAX_BIN * span * (1 + 1e-9) for a, b, span in zip(pixels, back, spans, strict=True))


def test_at_every_size_up_to_ten_thousand_a_pixel_comes_back_within_half_a_bin() -> None:
    for size in range(1, 10_001):
        span = axis_span(size)
        pixels = np.concatenate([np.round(np.linspace(0, span, 40)), np.linspace(0, span, 39)])
        back = encode_norm(pixels / span) / MAX_BIN * span
        assert np.abs(back - pixels).max() <= 0.5 / MAX_BIN * span * (1 + 1e-9), size


def test_at_every_size_up_to_ten_thousand_a_box_of_one_pixel_or_none_has_an_extent_at_both_edges_and_within() -> None:
    for size in range(1, 10_001):
        span = axis_span(size)
        for low, high in ((0, 0), (0, min(1, span)), (span, span), (span - 1, span), (span // 3, span // 3), (span // 3, span // 3 + 0.01)):
            left, top, right, bottom = pixels_to_bins((low, low, high, high), kind="bbox_2d", width=size, height=size)
            assert 0 <= left == top < right == bottom <= MAX_BIN, (size, low, high)


@given(width=SIDES, height=SIDES, x=st.tuples(SHARES, SHARES), y=st.tuples(SHARES, SHARES))
def test_a_box_wider_than_a_bin_survives_within_half_a_bin_a_side(width: int, height: int, x: tuple[float, float], y: tuple[float, float]) -> None:
    spans = [axis_span(width), axis_span(height)] * 2
    corners = (min(x), min(y), max(x), max(y))
    pixels = [share * span for share, span in zip(corners, spans, strict=True)]
    bins = pixels_to_bins(pixels, kind="bbox_2d", width=width, height=height)
    assert 0 <= bins[0] < bins[2] <= MAX_BIN
    assert 0 <= bins[1] < bins[3] <= MAX_BIN
    back = bins_to_pixels(bins, width=width, height=height)
    for axis in (0, 1):
        if round(corners[axis] * MAX_BIN) < round(corners[axis + 2] * MAX_BIN):
            assert abs(back[axis] - pixels[axis]) <= 0.5 / MAX_BIN * spans[axis] * (1 + 1e-6)
            assert abs(back[axis + 2] - pixels[axis + 2]) <= 0.5 / MAX_BIN * spans[axis] * (1 + 1e-6)


@given(width=SIDES, height=SIDES, x=st.floats(-50, 10_050), y=st.floats(-50, 10_050), rounding=st.sampled_from(["nearest", "outward"]))
def test_a_box_without_width_never_collapses_wherever_it_lies(width: int, height: int, x: float, y: float, rounding: str) -> None:
    bins = pixels_to_bins((x, y, x, y), kind="bbox_2d", width=width, height=height, rounding=rounding)  # type: ignore[arg-type]
    assert 0 <= bins[0] < bins[2] <= MAX_BIN
    assert 0 <= bins[1] < bins[3] <= MAX_BIN
    assert bins[2] - bins[0] <= 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        pytest.param(5.1, 5.3, (5, 6), id="one-bin-floor-and-ceil"),
        pytest.param(4.6, 5.4, (4, 6), id="around-a-bin"),
        pytest.param(5.0, 5.0, (5, 6), id="on-a-bin-widened"),
        pytest.param(999.0, 999.0, (998, 999), id="at-the-edge-widened-inwards"),
        pytest.param(1200.0, 1300.0, (998, 999), id="beyond-the-edge"),
        pytest.param(4.4, 6.6, (4, 7), id="nearest"),
    ],
)
def test_a_side_that_would_collapse_is_floored_and_ceiled_then_widened(low: float, high: float, expected: tuple[int, int]) -> None:
    assert pixels_to_bins((low, 0, high, 999), kind="bbox_2d", width=1000, height=1000)[::2] == expected


@given(size=SIDES, low=st.integers(0, MAX_BIN - 1), extent=st.integers(1, MAX_BIN), rounding=st.sampled_from(["nearest", "outward"]))
def test_bins_survive_the_way_to_pixels_and_back_in_both_roundings(size: int, low: int, extent: int, rounding: str) -> None:
    bins = (low, low, min(low + extent, MAX_BIN), min(low + extent, MAX_BIN))
    pixels = bins_to_pixels(bins, width=size, height=size)
    assert pixels_to_bins(pixels, kind="bbox_2d", width=size, height=size, rounding=rounding) == bins  # type: ignore[arg-type]


def test_outward_rounding_covers_the_box() -> None:
    bins = pixels_to_bins((10.2, 10.7, 20.2, 20.7), kind="bbox_2d", width=1000, height=1000, rounding="outward")
    assert bins == (10, 10, 21, 21)
    assert pixels_to_bins((10.2, 10.7, 20.2, 20.7), kind="bbox_2d", width=1000, height=1000) == (10, 11, 20, 21)


def test_the_corner_pixels_are_the_first_and_the_last_bin() -> None:
    assert pixels_to_bins((0, 0, 639, 479), kind="bbox_2d", width=640, height=480) == (0, 0, 999, 999)
    assert bins_to_pixels((0, 0, 999, 999), width=640, height=480) == (0, 0, 639, 479)


def test_values_beyond_the_border_are_counted_and_clamped() -> None:
    points = (-1, 0, 640, 479.5)
    assert count_beyond_border(points, width=640, height=480) == 3
    assert clamp_to_image(points, width=640, height=480) == (0, 0, 639, 479)
    assert count_beyond_border((0, 0, 639, 479), width=640, height=480) == 0


def test_real_valued_bins_decode_between_their_neighbours() -> None:
    assert bins_to_pixels((499.5, 0.25), width=1000, height=1000) == (499.5, 0.25)


@pytest.mark.parametrize("points", [(2, 0, 1, 5), (0, 5, 1, 2), (math.nan, 0, 1, 1)], ids=["x", "y", "nan"])
def test_a_box_in_the_wrong_order_is_refused(points: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a box side from"):
        pixels_to_bins(points, kind="bbox_2d", width=10, height=10)


def test_an_image_without_pixels_and_half_a_point_are_refused() -> None:
    with pytest.raises(ValueError, match="an image side of 0 pixels"):
        bins_to_pixels((1, 2), width=0, height=5)
    with pytest.raises(ValueError, match="3 values are not x, y pairs"):
        bins_to_pixels((1, 2, 3), width=5, height=5)
