from __future__ import annotations

import math

import pytest
import torch

from coordexp.losses.boxes import complete_iou_loss, expected_coordinates, order_corners, smooth_l1

torch.set_num_threads(1)
BIN = 1 / 999


def direct_complete_iou(a: list[float], b: list[float]) -> float:
    """The published formula for one pair, on Python floats."""
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    wa, ha, wb, hb = a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]
    iou = inter / (wa * ha + wb * hb - inter)
    rho2 = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    c2 = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    v = 4 / math.pi**2 * (math.atan(wb / hb) - math.atan(wa / ha)) ** 2
    alpha = v / (1 - iou + v) if v else 0.0
    return 1 - iou + rho2 / c2 + alpha * v


def random_boxes(count: int, *, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Boxes with sides of one bin and more, corners in order, inside [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    sides = BIN + torch.rand(count, 2, generator=generator, dtype=dtype).pow(3) * (1 - BIN)
    corner = torch.rand(count, 2, generator=generator, dtype=dtype) * (1 - sides)
    return torch.cat((corner, corner + sides), dim=1)


def wild_boxes(count: int, *, seed: int) -> torch.Tensor:
    """float32 boxes of every bad kind: points, lines, swapped corners, equal to one another, at the borders, one bin wide."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=generator)
    kind = torch.randint(0, 8, (count,), generator=generator)
    boxes[kind == 0, 2:] = boxes[kind == 0, :2]
    boxes[kind == 1, 2] = boxes[kind == 1, 0]
    boxes[kind == 2, 3] = boxes[kind == 2, 1]
    boxes[kind == 3] = boxes[kind == 3].round()
    boxes[kind == 4, 2:] = boxes[kind == 4, :2] + BIN
    boxes[kind == 5] = boxes[kind == 5] * 1e-20
    return boxes


def test_complete_iou_equals_the_published_formula() -> None:
    predicted, target = random_boxes(500, seed=1), random_boxes(500, seed=2)
    expected = [direct_complete_iou(a, b) for a, b in zip(predicted.tolist(), target.tolist(), strict=True)]
    assert complete_iou_loss(predicted, target).tolist() == pytest.approx(expected, abs=1e-9)
    single = complete_iou_loss(predicted.float(), target.float())
    assert single.tolist() == pytest.approx(expected, abs=2e-5)


def test_complete_iou_of_equal_boxes_is_zero_down_to_one_bin() -> None:
    boxes = random_boxes(200, seed=3)
    boxes[0] = torch.tensor([0.5, 0.5, 0.5 + BIN, 0.5 + BIN])
    assert complete_iou_loss(boxes, boxes).abs().max().item() < 1e-9


def test_complete_iou_passes_gradcheck_with_alpha_held_constant() -> None:
    predicted, target = random_boxes(6, seed=4), random_boxes(6, seed=5)
    alpha = _alpha(predicted, target)

    def with_constant_alpha(boxes: torch.Tensor) -> torch.Tensor:
        """The same loss with the alpha of the unshifted boxes, so that finite differences see what autograd sees."""
        v = 4 / math.pi**2 * (_angle(target) - _angle(boxes)).square()
        return complete_iou_loss(boxes, target) + (alpha - _alpha(boxes, target)) * v

    moving = predicted.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(complete_iou_loss(moving, target).sum(), moving)
    step = 1e-7
    for column in range(4):
        shift = torch.zeros(4, dtype=torch.float64)
        shift[column] = step
        slope = (with_constant_alpha(predicted + shift) - with_constant_alpha(predicted - shift)) / (2 * step)
        assert by_autograd[:, column].tolist() == pytest.approx(slope.tolist(), rel=1e-4, abs=1e-5)


def _angle(boxes: torch.Tensor) -> torch.Tensor:
    return torch.atan2(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def _alpha(boxes: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """v / (1 - IoU + v), by the published formula."""
    values = []
    for a, b in zip(boxes.tolist(), target.tolist(), strict=True):
        inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        iou = inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)
        v = 4 / math.pi**2 * (math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))) ** 2
        values.append(v / (1 - iou + v))
    return torch.tensor(values, dtype=torch.float64)


def test_losses_and_gradients_are_finite_on_a_million_wild_boxes() -> None:
    largest = 0.0
    for seed in range(10):
        raw = wild_boxes(100_000, seed=seed).requires_grad_()
        target = order_corners(wild_boxes(100_000, seed=seed + 100))
        total = complete_iou_loss(order_corners(raw), target) + smooth_l1(raw, target, beta=0.1)
        (gradient,) = torch.autograd.grad(total.sum(), raw)
        assert torch.isfinite(total).all()
        assert torch.isfinite(gradient).all()
        assert total.min() >= -1e-6
        assert total.max() < 4
        largest = max(largest, gradient.abs().max().item())
    assert largest > 0


def test_smooth_l1_is_quadratic_below_beta_and_linear_above() -> None:
    target = torch.zeros(1, 4)
    near, far = torch.full((1, 4), 0.05), torch.full((1, 4), 0.5)
    assert smooth_l1(near, target, beta=0.1).item() == pytest.approx(0.5 * 0.05**2 / 0.1)
    assert smooth_l1(far, target, beta=0.1).item() == pytest.approx(0.5 - 0.05)
    assert smooth_l1(far, far, beta=0.1).item() == 0


def test_smooth_l1_equals_that_of_torch() -> None:
    predicted, target = random_boxes(100, seed=8), random_boxes(100, seed=9)
    expected = torch.nn.functional.smooth_l1_loss(predicted, target, beta=0.03, reduction="none").mean(-1)
    torch.testing.assert_close(smooth_l1(predicted, target, beta=0.03), expected)


def test_expectation_is_the_mean_bin_over_999() -> None:
    logits = torch.full((3, 1000), -1e9)
    logits[0, 0] = logits[1, 999] = 0.0
    logits[2, 100] = logits[2, 300] = 0.0
    assert expected_coordinates(logits).tolist() == pytest.approx([0.0, 1.0, 200 / 999])


def test_expectation_passes_gradcheck() -> None:
    logits = torch.randn(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(expected_coordinates, (logits,))


def test_corners_in_any_order_give_the_same_box() -> None:
    boxes = torch.tensor([[0.8, 0.1, 0.2, 0.9], [0.1, 0.7, 0.3, 0.2]])
    expected = torch.tensor([[0.2, 0.1, 0.8, 0.9], [0.1, 0.2, 0.3, 0.7]])
    torch.testing.assert_close(order_corners(boxes), expected)
