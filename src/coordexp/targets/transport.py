"""Where the vertices of a predicted outline should go: entropic optimal transport to the annotated vertices, projected to one point for each.

Sinkhorn's iterations in the log domain (Cuturi 2013; Peyré and Cuturi 2019, section 4.4), vertices weighing the same. Outlines of different length are no
obstacle, nor is another starting vertex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.geometry.polygons import box_to_ring, ring_to_box
from coordexp.types.records import DetObject, GeometryKind

VertexCost: TypeAlias = Literal["l1", "l2"]
_Matrix: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Example: `TransportSettings(cost="l1", epsilon=2.0, iterations=100)`"""

    cost: VertexCost = "l2"
    """Distance between vertices, in bins."""
    epsilon: float = 10.0
    """Smoothing, in bins: mass is shared by vertices whose costs differ by less than about this."""
    iterations: int = 30


def matched_bins(kind: GeometryKind, points: Sequence[float], truth: DetObject, *, settings: TransportSettings | None = None) -> tuple[float, ...]:
    """What each coordinate of a predicted object should be, given the annotated object that it was matched to; real-valued bins.

    A box takes the annotated box, or the box around the annotated outline. An outline takes the projection of its vertices onto the annotated outline, or
    onto the corners of the annotated box; one that is the annotation already is its own target.
    """
    if kind == "bbox_2d":
        return tuple(float(value) for value in (truth.points if truth.kind == "bbox_2d" else ring_to_box(truth.points)))
    ring = box_to_ring(truth.points) if truth.kind == "bbox_2d" else truth.points
    if tuple(ring) == tuple(points):
        return tuple(float(value) for value in ring)
    return tuple(project_vertices(_vertices(points), _vertices(ring), settings=settings or TransportSettings()).ravel().tolist())


def project_vertices(source: _Matrix, target: _Matrix, *, settings: TransportSettings) -> _Matrix:
    """Barycentric projection [N, 2] of the source vertices [N, 2]: T_i = sum_j P_ij y_j / sum_j P_ij, with P the transport plan to the targets [M, 2]."""
    plan = transport_plan(vertex_costs(source, target, cost=settings.cost), epsilon=settings.epsilon, iterations=settings.iterations)
    # a mean of vertices lies between them, also after rounding
    return np.clip(plan @ target / plan.sum(axis=1, keepdims=True), target.min(axis=0), target.max(axis=0))


def vertex_costs(source: _Matrix, target: _Matrix, *, cost: VertexCost) -> _Matrix:
    """[N, M] distances: |dx| + |dy|, or Euclidean."""
    difference = source[:, None] - target[None]
    return np.abs(difference).sum(axis=-1) if cost == "l1" else np.hypot(difference[..., 0], difference[..., 1])


def transport_plan(cost: _Matrix, *, epsilon: float, iterations: int) -> _Matrix:
    """[N, M] plan that minimizes <P, C> − epsilon·H(P) with row sums 1/N and column sums 1/M; the rows are exact after any number of iterations."""
    num_rows, num_columns = cost.shape
    scaled = -cost / epsilon
    columns = np.zeros(num_columns)
    rows = -_log_sum_exp(scaled, axis=1) - np.log(num_rows)
    for _ in range(iterations):
        columns = -_log_sum_exp(scaled + rows[:, None], axis=0) - np.log(num_columns)
        rows = -_log_sum_exp(scaled + columns[None], axis=1) - np.log(num_rows)
    return np.exp(scaled + rows[:, None] + columns[None])


def _log_sum_exp(values: _Matrix, *, axis: int) -> _Matrix:
    top = values.max(axis=axis, keepdims=True)
    return np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)


def _vertices(points: Sequence[float]) -> _Matrix:
    return np.asarray(points, dtype=np.float64).reshape(-1, 2)
