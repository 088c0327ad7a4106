from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from coordexp.targets.transport import TransportSettings, matched_bins, project_vertices, transport_plan, vertex_costs
from coordexp.types.records import DetObject

VERTICES = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=3, max_size=9).map(lambda rows: np.array(rows, dtype=np.float64))
SQUARE = (100.0, 100.0, 500.0, 100.0, 500.0, 500.0, 100.0, 500.0)


@given(source=VERTICES, target=VERTICES, cost=st.sampled_from(["l1", "l2"]), epsilon=st.sampled_from([0.1, 10.0, 1000.0]))
def test_the_plan_has_its_marginals(source, target, cost, epsilon: float) -> None:
    plan = transport_plan(vertex_costs(source, target, cost=cost), epsilon=epsilon, iterations=30)
    assert np.isfinite(plan).all()
    assert plan.sum(axis=1) == pytest.approx(np.full(len(source), 1 / len(source)))


def test_columns_have_their_marginals_once_it_has_converged() -> None:
    rng = np.random.default_rng(0)
    plan = transport_plan(vertex_costs(rng.random((5, 2)) * 999, rng.random((7, 2)) * 999, cost="l2"), epsilon=50.0, iterations=2000)
    assert plan.sum(axis=0) == pytest.approx(np.full(7, 1 / 7))


def test_with_little_smoothing_the_cost_is_that_of_the_linear_program() -> None:
    rng = np.random.default_rng(1)
    costs = vertex_costs(rng.random((4, 2)) * 999, rng.random((6, 2)) * 999, cost="l1")
    rows = np.kron(np.eye(4), np.ones(6))
    columns = np.kron(np.ones(4), np.eye(6))
    exact = scipy.optimize.linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=[*np.full(4, 1 / 4), *np.full(6, 1 / 6)]).fun
    plan = transport_plan(costs, epsilon=0.5, iterations=20_000)
    assert (plan * costs).sum() == pytest.approx(exact, rel=1e-3)


@given(source=VERTICES, target=VERTICES)
def test_targets_lie_between_the_annotated_vertices(source, target) -> None:
    projected = project_vertices(source, target, settings=TransportSettings())
    assert projected.shape == source.shape
    assert (target.min(axis=0) <= projected).all()
    assert (projected <= target.max(axis=0)).all()


def test_each_vertex_goes_to_its_neighbour_wherever_the_outline_starts() -> None:
    said = (490.0, 110.0, 510.0, 490.0, 95.0, 505.0, 90.0, 95.0)
    target = matched_bins("poly", said, DetObject("", "poly", SQUARE), settings=TransportSettings(epsilon=1.0))
    assert target == pytest.approx((500, 100, 500, 500, 100, 500, 100, 100))


def test_more_smoothing_pulls_targets_together() -> None:
    said = (105.0, 95.0, 490.0, 110.0, 510.0, 490.0, 95.0, 505.0)
    spreads = [np.ptp(matched_bins("poly", said, DetObject("", "poly", SQUARE), settings=TransportSettings(epsilon=epsilon))) for epsilon in (1, 100, 1e5)]
    assert spreads[0] > spreads[1] > spreads[2] + 100


def test_an_outline_that_is_the_annotation_is_its_own_target() -> None:
    assert matched_bins("poly", tuple(int(value) for value in SQUARE), DetObject("", "poly", SQUARE)) == SQUARE


def test_boxes_and_outlines_are_targets_of_each_other() -> None:
    triangle = DetObject("", "poly", (100, 100, 500, 100, 300, 600))
    assert matched_bins("bbox_2d", (0, 0, 9, 9), DetObject("", "bbox_2d", (1, 2, 3, 4))) == (1, 2, 3, 4)
    assert matched_bins("bbox_2d", (0, 0, 9, 9), triangle) == (100, 100, 500, 600)
    corners = matched_bins("poly", (100, 100, 500, 110, 490, 500), DetObject("", "bbox_2d", (100, 100, 500, 500)), settings=TransportSettings(epsilon=1.0))
    assert len(corners) == 6
