"""Losses on decoded boxes: coordinate distributions become boxes by expectation, boxes are compared in [0, 1] space.

All functions work on flat rows and return one value for each row; the caller weighs, sums and divides by its own denominator. Values and gradients are
finite for every box, degenerate and swapped ones included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from coordexp.geometry.bins import MAX_BIN, NUM_BINS
from coordexp.losses.tokens import upcast

_MIN_SIDE = 0.5 / MAX_BIN
"""Half a bin. Sides, areas and diagonals are not divided by anything smaller, so that boxes without area have bounded gradients; annotated boxes are one bin
wide at least, for them and for predictions of that size the formulas hold as published."""


def expected_coordinates(coord_logits: Tensor) -> Tensor:
    """Expectation of the coordinate: sum_k p_k k / 999 with p = softmax of the coordinate logits.

    Args:
        coord_logits: Float[Tensor, "rows num_bins"], any float type; computed in float32 or wider.

    Returns:
        Float[Tensor, "rows"], in [0, 1].
    """
    p = torch.softmax(upcast(coord_logits), dim=-1)
    return p @ (torch.arange(NUM_BINS, device=p.device, dtype=p.dtype) / MAX_BIN)


def order_corners(boxes: Tensor) -> Tensor:
    """x1 <= x2 and y1 <= y2, by minimum and maximum. Float[Tensor, "boxes 4"] xyxy."""
    first, second = boxes[:, :2], boxes[:, 2:]
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), dim=1)


def smooth_l1(predicted: Tensor, target: Tensor, *, beta: float) -> Tensor:
    """Mean over the 4 coordinates of 0.5 d^2 / beta where d = |predicted - target| < beta, else d - beta / 2.

    Girshick, Fast R-CNN (2015), with the transition at `beta`.

    Args:
        predicted: Float[Tensor, "boxes 4"], xyxy in [0, 1].
        target: the same.
        beta: where quadratic turns to linear, in [0, 1] space; positive.

    Returns:
        Float[Tensor, "boxes"].
    """
    distance = (predicted - target).abs()
    return torch.where(distance < beta, 0.5 * distance.square() / beta, distance - 0.5 * beta).mean(-1)


def complete_iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU + rho^2 / c^2 + alpha v, Zheng et al., Enhancing Geometric Factors (2020).

    rho: distance of the centres; c: diagonal of the smallest enclosing box; v = (4 / pi^2) (atan(w_t / h_t) - atan(w / h))^2; alpha = v / (1 - IoU + v), held
    constant in the gradient. Sides below half a bin count as half a bin in the aspect ratio.

    Args:
        predicted: Float[Tensor, "boxes 4"], xyxy in [0, 1], corners in order.
        target: the same.

    Returns:
        Float[Tensor, "boxes"], in [0, 3].
    """
    sides, target_sides = predicted[:, 2:] - predicted[:, :2], target[:, 2:] - target[:, :2]
    low, high = torch.maximum(predicted[:, :2], target[:, :2]), torch.minimum(predicted[:, 2:], target[:, 2:])
    intersection = (high - low).clamp_min(0).prod(-1)
    union = sides.prod(-1) + target_sides.prod(-1) - intersection
    iou = intersection / union.clamp_min(_MIN_SIDE**2)
    enclosing = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    centres = (predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]) / 2
    distance = centres.square().sum(-1) / enclosing.square().sum(-1).clamp_min(_MIN_SIDE**2)
    v = (4 / math.pi**2) * (_aspect_angle(target_sides) - _aspect_angle(sides)).square()
    with torch.no_grad():
        mismatch = 1 - iou + v
        alpha = torch.where(mismatch > 0, v / mismatch.clamp_min(torch.finfo(v.dtype).tiny), 0.0)
    return 1 - iou + distance + alpha * v


def _aspect_angle(sides: Tensor) -> Tensor:
    """atan(w / h) of Float[Tensor, "boxes 2"]."""
    width, height = sides.clamp_min(_MIN_SIDE).unbind(-1)
    return torch.atan2(width, height)
