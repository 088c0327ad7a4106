"""What is minimized: a vector of terms, each a sum over its own positions with its own denominator. Stage-1 is one setting of it.

The trainer adds the denominators of all packs and ranks of an optimizer step first, so the loss of a step is
`sum over terms of (sum of the term over the step) / (denominator of the term over the step)`, whatever the packing and accumulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from coordexp.batching.collate import PackBatch, Supervision
from coordexp.losses.coordinates import CoordLossWeights, CoordTerms, coordinate_terms
from coordexp.losses.tokens import cross_entropy_rows, upcast
from coordexp.training.diagnostics import Stage1Monitor, Stage1Rows
from coordexp.types.metrics import Metric

FULL_CROSS_ENTROPY = CoordLossWeights(soft_ce=0.0, w1=0.0, ce=1.0, gate=1.0, temperature=1.0)
"""-log p[t] + gate is the cross-entropy over the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class PackLoss:
    """What one forward contributes."""

    sums: Tensor
    """Float[Tensor, "terms"], with gradient: not yet divided."""
    metrics: dict[str, Metric]


class Objective(Protocol):
    """What the trainer turns the crank for."""

    def denominators(self, supervision: Supervision) -> Tensor:
        """Float64[Tensor, "terms"]: this pack's share of the denominators."""
        ...

    def __call__(self, logits: Tensor, batch: PackBatch) -> PackLoss:
        """Logits of the kept columns, Float[Tensor, "rows columns vocab"], to undivided sums."""
        ...


class Stage1Objective:
    """Token cross-entropy on text, distribution losses on coordinate slots.

    With `weights` None coordinates are ordinary tokens: one mean cross-entropy over all supervised tokens.

    Example: `Stage1Objective(coord_vocab.ids, weights=CoordLossWeights(ce=0.1))`
    """

    def __init__(self, coord_ids: Sequence[int], *, weights: CoordLossWeights | None, by_token_type: bool = True) -> None:
        self._coord_ids = torch.tensor(coord_ids, dtype=torch.long)
        self._weights = weights or FULL_CROSS_ENTROPY
        self._is_pooled = weights is None
        self._monitor = Stage1Monitor(is_enabled=weights is not None, by_token_type=by_token_type)

    def denominators(self, supervision: Supervision) -> Tensor:
        text, coord = supervision.text_weight.sum().double(), supervision.coord_weight.sum().double()
        return (text + coord).reshape(1) if self._is_pooled else torch.stack((text, coord))

    def __call__(self, logits: Tensor, batch: PackBatch) -> PackLoss:
        supervision = batch.supervision
        coord_ids = self._ids_on(logits.device)
        flat = logits.flatten(0, 1)
        text_logits = upcast(flat.index_select(0, supervision.text_rows))
        text_ce = cross_entropy_rows(text_logits, supervision.text_targets)
        text_sum = (supervision.text_weight * text_ce).sum()

        slot_logits = upcast(flat.index_select(0, supervision.coord_rows))
        coord_logits = slot_logits.index_select(1, coord_ids)
        temperature = self._weights.temperature
        terms = coordinate_terms(
            coord_logits,
            torch.logsumexp(slot_logits if temperature == 1.0 else slot_logits / temperature, dim=-1),
            supervision.coord_bins,
            supervision.coord_weight,
            weights=self._weights,
        )
        # the anchor keeps every parameter in the graph when a pack supervises nothing: ranks must reduce the same gradients
        anchor = flat[:1].sum() * 0.0
        sums = [text_sum + terms.total + anchor] if self._is_pooled else [text_sum + anchor, terms.total]
        if batch.is_filler:
            return PackLoss(sums=torch.stack(sums), metrics={})
        rows = Stage1Rows(text_logits.detach(), text_ce.detach(), slot_logits.detach(), coord_logits.detach(), coord_ids)
        return PackLoss(sums=torch.stack(sums), metrics=self._measure(rows, terms, batch))

    def _measure(self, rows: Stage1Rows, terms: CoordTerms, batch: PackBatch) -> dict[str, Metric]:
        num_samples = batch.extra("pack_num_samples", reader="Stage1Objective")
        return self._monitor(rows, terms.detach(), batch.supervision, num_samples=num_samples)

    def _ids_on(self, device: torch.device) -> Tensor:
        if self._coord_ids.device != device:
            self._coord_ids = self._coord_ids.to(device)
        return self._coord_ids
