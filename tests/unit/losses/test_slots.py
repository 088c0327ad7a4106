from __future__ import annotations

import pytest
import torch

from coordexp.losses.boxes import complete_iou_loss, expected_coordinates, order_corners, smooth_l1
from coordexp.losses.coordinates import CoordLossWeights, coordinate_terms
from coordexp.losses.slots import BOX_TERMS, SLOT_TERMS, SlotLossWeights, slot_terms

torch.set_num_threads(1)
MIX = CoordLossWeights(ce=0.1)
NO_MIX = CoordLossWeights(soft_ce=0.0, w1=0.0, ce=0.0, gate=0.0)


def case(num_boxes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, normalizers, targets, weights: one weight for each box."""
    generator = torch.Generator().manual_seed(num_boxes)
    logits = torch.randn(4 * num_boxes, 1000, generator=generator, dtype=torch.float64).requires_grad_()
    lse = (torch.logsumexp(logits.detach(), -1) + 0.1).requires_grad_()
    low = torch.rand(num_boxes, 2, generator=generator, dtype=torch.float64) * 400
    targets = torch.cat((low, low + 200), dim=1).flatten()
    weight = torch.rand(num_boxes, generator=generator, dtype=torch.float64).repeat_interleave(4)
    return logits, lse, targets, weight


def test_distribution_terms_are_those_of_stage_1() -> None:
    logits, lse, targets, weight = case()
    sums = dict(zip(SLOT_TERMS, slot_terms(logits, lse, targets, weight, weights=SlotLossWeights(distribution=MIX)), strict=True))
    expected = coordinate_terms(logits, lse, targets, weight, weights=MIX)
    assert (sums["coord"] + sums["coord_ce"]).item() == pytest.approx(expected.total.item())
    assert sums["coord_ce"].item() == pytest.approx(0.1 * expected.ce.item())
    assert all(sums[name].item() == 0 for name in SLOT_TERMS if name not in ("coord", "coord_ce"))


def test_box_terms_are_counted_once_a_box() -> None:
    logits, lse, targets, weight = case()
    weights = SlotLossWeights(bbox_smoothl1=2.0, bbox_ciou=0.5, beta=0.05)
    sums = dict(zip(SLOT_TERMS, slot_terms(logits, lse, targets, weight, weights=weights), strict=True))
    predicted, target = order_corners(expected_coordinates(logits).view(-1, 4)), (targets / 999).view(-1, 4)
    per_box = weight[::4]
    assert sums["bbox_smoothl1"].item() == pytest.approx(2.0 * (per_box * smooth_l1(predicted, target, beta=0.05)).sum().item())
    assert sums["bbox_ciou"].item() == pytest.approx(0.5 * (per_box * complete_iou_loss(predicted, target)).sum().item())
    assert sums["coord"].item() == 0


@pytest.mark.parametrize("name", ["coord_el1", "coord_ehuber", "coord_entropy", *BOX_TERMS])
def test_a_term_grows_with_its_weight_and_is_zero_without(name: str) -> None:
    logits, lse, targets, weight = case()
    at = SLOT_TERMS.index(name)
    one = slot_terms(logits, lse, targets, weight, weights=SlotLossWeights(**{name: 1.0}))
    two = slot_terms(logits, lse, targets, weight, weights=SlotLossWeights(**{name: 2.0}))
    assert one[at].item() > 0
    assert two[at].item() == pytest.approx(2 * one[at].item())
    assert one.sum().item() == pytest.approx(one[at].item())


def test_a_slot_of_weight_zero_gets_no_gradient() -> None:
    logits, lse, targets, weight = case()
    weight[4:8] = 0
    weights = SlotLossWeights(distribution=MIX, coord_el1=1, coord_ehuber=1, coord_entropy=1, bbox_smoothl1=1, bbox_ciou=1)
    slot_terms(logits, lse, targets, weight, weights=weights).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[4:8] == 0).all()
    assert (logits.grad[:4] != 0).any()


@pytest.mark.parametrize("num_boxes", [0, 2])
def test_without_slots_or_weights_the_sums_are_zero_and_have_a_gradient(num_boxes: int) -> None:
    logits, lse, targets, weight = case(num_boxes)
    sums = slot_terms(logits, lse, targets, weight, weights=SlotLossWeights())
    assert sums.tolist() == [0.0] * len(SLOT_TERMS)
    sums.sum().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_polygons_have_distribution_terms_and_no_box_terms() -> None:
    logits, lse, targets, weight = (part[:6] for part in case())
    assert slot_terms(logits, lse, targets, weight, weights=SlotLossWeights(distribution=MIX))[0].item() > 0
    with pytest.raises(ValueError, match="6 coordinates are not the four of each box"):
        slot_terms(logits, lse, targets, weight, weights=SlotLossWeights(bbox_ciou=1.0))


@pytest.mark.parametrize(("values", "said"), [({"bbox_ciou": -1.0}, "bbox_ciou must not be negative"), ({"beta": 0.0}, "beta must be positive")])
def test_wrong_weights_are_refused(values: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SlotLossWeights(distribution=NO_MIX, **values)
