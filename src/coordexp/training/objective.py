"""What is minimized: a vector of terms, each a sum over its own positions with its own denominator. Stage-1 is one setting of it.

The trainer adds the denominators of all packs and ranks of an optimizer step first, so the loss of a step is
`sum over terms of (sum of the term over the step) / (denominator of the term over the step)`, whatever the packing and accumulation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from coordexp.batching.collate import PackBatch, Supervision
from coordexp.losses.coordinates import CoordLossWeights, CoordTerms, coordinate_terms
from coordexp.losses.rows import OutputHead, RowFunction, RowQuery, RowResult, plain_rows
from coordexp.metrics.fold import MetricFold
from coordexp.models.head import forward_through_head
from coordexp.training.diagnostics import Diagnostic, Stage1Monitor
from coordexp.types.metrics import Metric

FULL_CROSS_ENTROPY = CoordLossWeights(soft_ce=0.0, w1=0.0, ce=1.0, gate=1.0, temperature=1.0)
"""-log p[t] + gate is the cross-entropy over the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class PackLoss:
    """What one forward contributes."""

    sums: Tensor
    """Float[Tensor, "terms"], with gradient: not yet divided."""
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One optimizer step on one rank, after its forwards and backwards."""

    terms: Tensor
    """Float64[Tensor, "terms"]: this rank's sums over the denominators of the step; added over ranks they are the loss."""
    num_packs: int
    packs_planned: int
    """Forwards of a full step."""
    world_size: int
    forward_s: float
    """Seconds of forwards and backwards."""


class Objective(Protocol):
    """What the trainer turns the crank for."""

    def denominators(self, batch: PackBatch) -> Tensor:
        """Float64[Tensor, "terms"]: this pack's share of the denominators."""
        ...

    def run(self, model: nn.Module, batch: PackBatch, *, denominators: Tensor | None = None) -> PackLoss:
        """Every forward of one pack, through all wrappers of the model, to undivided sums.

        `denominators`, of the whole step, are what the caller will divide by: knowing them may save time, the result is the same.
        """
        ...

    def describe_step(self, batch: PackBatch, facts: StepFacts) -> Mapping[str, Metric]:
        """What is measured of a whole step, beside the metrics of its forwards; `batch`: any pack of it."""
        ...


PER_STEP_KEYS = ("base_ce/noncoord_tokens", "coord_diag/coord_tokens")
"""Counted per optimizer step: forwards add to the total, the step to the count."""


class Stage1Objective:
    """Token cross-entropy on text, distribution losses on coordinate slots.

    With `weights` None coordinates are ordinary tokens: one mean cross-entropy over all supervised tokens.

    `rows` reads the head: `plain_rows` or `lean_rows`, with the same result.

    Example: `Stage1Objective(coord_vocab.ids, weights=CoordLossWeights(ce=0.1))`
    """

    def __init__(
        self,
        coord_ids: Sequence[int],
        *,
        weights: CoordLossWeights | None,
        rows: RowFunction = plain_rows,
        by_token_type: bool = True,
        diagnostics: Mapping[str, Diagnostic] | None = None,
    ) -> None:
        """`diagnostics`: further ones, by name."""
        self._coord_ids = torch.tensor(coord_ids, dtype=torch.long)
        self._weights = weights or FULL_CROSS_ENTROPY
        self._rows = rows
        self._is_pooled = weights is None
        self._monitor = Stage1Monitor(is_enabled=weights is not None, by_token_type=by_token_type, more=diagnostics)

    def denominators(self, batch: PackBatch) -> Tensor:
        supervision = batch.supervision
        text, coord = supervision.text_weight.sum().double(), supervision.coord_weight.sum().double()
        return (text + coord).reshape(1) if self._is_pooled else torch.stack((text, coord))

    def run(self, model: nn.Module, batch: PackBatch, *, denominators: Tensor | None = None) -> PackLoss:
        """One forward that ends in the losses: they run where the head is."""
        results: list[PackLoss] = []

        def compute(hidden: Tensor, head: OutputHead) -> Tensor:
            results.append(self(hidden, head, batch, denominators=denominators))
            return results[-1].sums

        sums = forward_through_head(model, batch.model_inputs, compute)
        # backward goes through the sums as the wrappers passed them on
        return replace(results[-1], sums=sums)

    def describe_step(self, batch: PackBatch, facts: StepFacts) -> Mapping[str, Metric]:
        """The step itself, and how many forwards it had."""
        fold = MetricFold()
        for key in PER_STEP_KEYS:
            fold.add(key, total=0.0, count=1.0 / facts.world_size)
        fold.add("accum/grad_steps", total=facts.packs_planned)
        fold.add("accum/current_grad_steps", total=facts.num_packs)
        return fold.snapshot()

    def __call__(self, hidden: Tensor, head: OutputHead, batch: PackBatch, *, denominators: Tensor | None = None) -> PackLoss:
        """Last hidden states of the kept columns, Float[Tensor, "rows columns width"], to undivided sums."""
        supervision = batch.supervision
        coord_ids = self._ids_on(hidden.device)
        rows = self._rows(hidden, head, self._query(batch, coord_ids, denominators), coord_ids=coord_ids)
        # the model may run in autocast; the losses do not
        with torch.autocast(hidden.device.type, enabled=False):
            if batch.is_filler:
                return PackLoss(sums=self._sums(rows, self._terms(rows, supervision, slice(0))), metrics={})
            terms = self._terms(rows, supervision, slice(None))
            return PackLoss(sums=self._sums(rows, terms), metrics=self._measure(rows, terms, batch))

    def _query(self, batch: PackBatch, coord_ids: Tensor, denominators: Tensor | None) -> RowQuery:
        """All supervised rows; of a filler none, which still ties every parameter to the loss: ranks must reduce the same gradients."""
        supervision, wanted = batch.supervision, slice(0) if batch.is_filler else slice(None)
        share = None if denominators is None else self._weights.gate * supervision.coord_weight[wanted] * (denominators[0] / denominators[-1]).float()
        return RowQuery(
            text_rows=supervision.text_rows[wanted],
            text_targets=supervision.text_targets[wanted],
            text_weight=supervision.text_weight[wanted],
            coord_rows=supervision.coord_rows[wanted],
            coord_targets=coord_ids[supervision.coord_bins[wanted].round().long()],
            temperature=self._weights.temperature,
            is_lse_trained=self._weights.gate > 0,
            lse_share=share,
        )

    def _terms(self, rows: RowResult, supervision: Supervision, wanted: slice) -> CoordTerms:
        bins, weight = supervision.coord_bins[wanted], supervision.coord_weight[wanted]
        return coordinate_terms(rows.coord_logits, rows.coord_lse, bins, weight, weights=self._weights)

    def _sums(self, rows: RowResult, terms: CoordTerms) -> Tensor:
        return (rows.text_sum + terms.total).reshape(1) if self._is_pooled else torch.stack((rows.text_sum, terms.total))

    def _measure(self, rows: RowResult, terms: CoordTerms, batch: PackBatch) -> dict[str, Metric]:
        num_samples = batch.extra("pack_num_samples", reader="Stage1Objective")
        return self._monitor(rows, terms.detach(), batch.supervision, num_samples=num_samples)

    def _ids_on(self, device: torch.device) -> Tensor:
        if self._coord_ids.device != device:
            self._coord_ids = self._coord_ids.to(device)
        return self._coord_ids
