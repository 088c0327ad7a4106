"""All losses of a group of coordinate slots: distributions over the bins, and boxes decoded by expectation. Weighted sums, one for each term.

The terms of a slot's coordinates are counted per coordinate, those of its box per box; the caller divides by these counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from coordexp.geometry.bins import MAX_BIN
from coordexp.losses.boxes import complete_iou_loss, expected_coordinates, order_corners, smooth_l1
from coordexp.losses.coordinates import CoordLossWeights, coordinate_terms
from coordexp.losses.expected import distance_to_target, entropy, expected_huber, expected_l1
from coordexp.losses.tokens import upcast

COORDINATE_TERMS: Final = ("coord", "coord_ce", "coord_el1", "coord_ehuber", "coord_entropy")
"""Counted per coordinate. `coord` is the distribution part: soft cross-entropy, W1 and gate, weighted."""
BOX_TERMS: Final = ("bbox_smoothl1", "bbox_ciou")
"""Counted per box."""
SLOT_TERMS: Final = (*COORDINATE_TERMS, *BOX_TERMS)

_NO_DISTRIBUTION = CoordLossWeights(soft_ce=0.0, w1=0.0, ce=0.0, gate=0.0)


@dataclass(frozen=True, slots=True)
class SlotLossWeights:
    """How much each term counts; a term of weight 0 is not computed.

    Example: boxes alone, as in Stage-2: `SlotLossWeights(bbox_smoothl1=1.0, bbox_ciou=1.0)`
    """

    distribution: CoordLossWeights = field(default=_NO_DISTRIBUTION)
    """Soft cross-entropy, W1, gate, and (as the term `coord_ce`) cross-entropy over the bins."""
    coord_el1: float = 0.0
    coord_ehuber: float = 0.0
    coord_entropy: float = 0.0
    bbox_smoothl1: float = 0.0
    bbox_ciou: float = 0.0
    beta: float = 0.1
    """Where SmoothL1 and the expected Huber distance turn from quadratic to linear, in [0, 1] space."""

    def __post_init__(self) -> None:
        for name in ("coord_el1", "coord_ehuber", "coord_entropy", "bbox_smoothl1", "bbox_ciou"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"the weight {name} must not be negative, got {getattr(self, name)}")
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")

    @property
    def uses_boxes(self) -> bool:
        """Slots must be boxes."""
        return bool(self.bbox_smoothl1 or self.bbox_ciou)


def slot_terms(coord_logits: Tensor, vocab_lse: Tensor, target_bins: Tensor, weight: Tensor, *, weights: SlotLossWeights) -> Tensor:
    """Weighted sums of all terms over the slots of one group.

    Args:
        coord_logits: Float[Tensor, "rows num_bins"]; four rows in a row are a box when `weights.uses_boxes`.
        vocab_lse: Float[Tensor, "rows"], logsumexp over the vocabulary at the gate's temperature.
        target_bins: Float[Tensor, "rows"], real-valued, in [0, 999].
        weight: Float[Tensor, "rows"], the same for all coordinates of a slot.
        weights: of the terms.

    Returns:
        Float[Tensor, "terms"] in the order of `SLOT_TERMS`; with gradient, also where all weights are 0.
    """
    logits = upcast(coord_logits)
    zero = logits.sum() * 0.0 + vocab_lse.sum() * 0.0
    if not len(logits):
        return zero.expand(len(SLOT_TERMS))
    sums = dict.fromkeys(SLOT_TERMS, zero)
    sums |= _distribution_sums(logits, vocab_lse, target_bins, weight, weights=weights.distribution)
    log_p = torch.log_softmax(logits, dim=-1)
    distance = distance_to_target(target_bins.to(logits.dtype))
    if weights.coord_el1:
        sums["coord_el1"] = weights.coord_el1 * (weight * expected_l1(log_p.exp(), distance)).sum()
    if weights.coord_ehuber:
        sums["coord_ehuber"] = weights.coord_ehuber * (weight * expected_huber(log_p.exp(), distance, beta=weights.beta)).sum()
    if weights.coord_entropy:
        sums["coord_entropy"] = weights.coord_entropy * (weight * entropy(log_p)).sum()
    if weights.uses_boxes:
        sums |= _box_sums(logits, target_bins, weight, weights=weights)
    return torch.stack([sums[name] + zero for name in SLOT_TERMS])


def _distribution_sums(logits: Tensor, vocab_lse: Tensor, target_bins: Tensor, weight: Tensor, *, weights: CoordLossWeights) -> dict[str, Tensor]:
    used = {name: getattr(weights, name) for name in ("soft_ce", "w1", "gate") if getattr(weights, name)}
    if not used and not weights.ce:
        return {}
    terms = coordinate_terms(logits, vocab_lse, target_bins, weight, weights=weights)
    sums = {"coord": torch.stack([factor * getattr(terms, name) for name, factor in used.items()]).sum()} if used else {}
    return sums | ({"coord_ce": weights.ce * terms.ce} if weights.ce else {})


def _box_sums(logits: Tensor, target_bins: Tensor, weight: Tensor, *, weights: SlotLossWeights) -> dict[str, Tensor]:
    if len(logits) % 4:
        raise ValueError(f"{len(logits)} coordinates are not the four of each box")
    predicted = order_corners(expected_coordinates(logits).view(-1, 4))
    target = order_corners((target_bins.to(logits.dtype) / MAX_BIN).view(-1, 4))
    per_box = weight.view(-1, 4)[:, 0]
    sums: dict[str, Tensor] = {}
    if weights.bbox_smoothl1:
        sums["bbox_smoothl1"] = weights.bbox_smoothl1 * (per_box * smooth_l1(predicted, target, beta=weights.beta)).sum()
    if weights.bbox_ciou:
        sums["bbox_ciou"] = weights.bbox_ciou * (per_box * complete_iou_loss(predicted, target)).sum()
    return sums
