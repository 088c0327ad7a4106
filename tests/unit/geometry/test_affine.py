from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.geometry.affine import AxisMap, PlaneMap, clip_ring, visible_part
from coordexp.geometry.masks import ring_to_mask
from coordexp.geometry.polygons import is_canonical, ring_to_box

WINDOW = (10.0, 10.0, 30.0, 20.0)


def test_maps_apply_one_after_the_other() -> None:
    mirror, double = AxisMap(-1.0, 9.0), AxisMap(2.0, 1.0)
    assert [mirror.then(double)(value) for value in (0.0, 4.0)] == [double(mirror(0.0)), double(mirror(4.0))] == [19.0, 11.0]


def test_a_mirrored_box_keeps_its_corners_in_order_and_a_mirrored_ring_runs_clockwise() -> None:
    mirror = PlaneMap(x=AxisMap(-1.0, 9.0))
    assert mirror.move((1, 2, 4, 5), kind="bbox_2d") == (5.0, 2.0, 8.0, 5.0)
    assert is_canonical(mirror.move((0, 0, 4, 0, 4, 4), kind="poly"))


@pytest.mark.parametrize(
    ("kind", "points", "part", "share"),
    [
        ("bbox_2d", (0, 0, 20, 20), (10.0, 10.0, 20, 20), 0.25),
        ("bbox_2d", (0, 0, 9, 9), None, 0.0),
        ("bbox_2d", (0, 12, 10, 18), None, 0.0),
        ("bbox_2d", (12, 12, 12, 18), (12, 12, 12, 18), 1.0),
        ("poly", (12, 12, 18, 12, 18, 18), (12, 12, 18, 12, 18, 18), 1.0),
        ("poly", (0, 10, 20, 10, 20, 20, 0, 20), (10, 10, 20, 10, 20, 20, 10, 20), 0.5),
        ("poly", (0, 0, 5, 0, 5, 5), None, 0.0),
    ],
)
def test_what_a_window_shows_of_an_object(kind: str, points: tuple[float, ...], part: tuple[float, ...] | None, share: float) -> None:
    assert visible_part(points, kind=kind, window=WINDOW) == (part, share)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=8, unique=True))
def test_a_clipped_ring_stays_in_the_window_and_in_canonical_order(vertices: list[tuple[int, int]]) -> None:
    clipped = clip_ring([float(value) for vertex in vertices for value in vertex], WINDOW)
    if clipped is not None:
        x1, y1, x2, y2 = ring_to_box(clipped)
        assert x1 >= 10 - 1e-9 and y1 >= 10 - 1e-9 and x2 <= 30 + 1e-9 and y2 <= 20 + 1e-9  # noqa: PT018
        assert is_canonical(clipped)


def test_both_arms_of_a_concave_ring_stay_visible() -> None:
    u_shape = (0.0, 0.0, 8.0, 0.0, 8.0, 24.0, 16.0, 24.0, 16.0, 0.0, 24.0, 0.0, 24.0, 32.0, 0.0, 32.0)
    arms = clip_ring(u_shape, (0.0, 0.0, 40.0, 16.0))
    assert arms is not None
    assert ring_to_mask(arms, width=40, height=40).sum() == 2 * 8 * 16
