"""What Stage-2 minimizes. Channel A: ground truth, with forwards on the model's own soft coordinates. Channel B, rollout matching: one teacher-forced target.

All are settings of one form: cross-entropy of text on the first forward, losses of coordinate slots on the last, each term with its own denominator over
the whole optimizer step. What is supervised, and how much, was decided by the targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from coordexp.batching.collate import PackBatch, Supervision
from coordexp.losses.rows import RowFunction, RowQuery, RowResult, plain_rows
from coordexp.losses.slots import BOX_TERMS, COORDINATE_TERMS, SLOT_TERMS, SlotLossWeights, slot_terms
from coordexp.metrics.fold import MetricFold
from coordexp.models.soft_context import soft_coordinates
from coordexp.training.objective import PackLoss, StepFacts
from coordexp.training.row_forward import forward_rows
from coordexp.types.metrics import Metric

Channel: TypeAlias = Literal["A", "B"]
GradMode: TypeAlias = Literal["unroll", "em_detach"]
Reduction: TypeAlias = Literal["split", "pooled"]

GROUPS: Final = ("prefix", "tail")
"""Slots of the model's own answer, and those that were written for it: appended behind a rollout, or the whole ground truth."""

TERMS: Final = ("ce", *(f"{group}/{term}" for group in GROUPS for term in SLOT_TERMS))
"""Of the vector of sums."""


_REGULARIZERS: Final = ("coord_ce", "coord_el1", "coord_ehuber", "coord_entropy")


@dataclass(frozen=True, slots=True)
class SoftContext:
    """How Channel A feeds the model its own coordinates."""

    iterations: int = 2
    """Forwards; 1 is plain teacher forcing."""
    grad_mode: GradMode = "unroll"
    """`unroll`: gradients flow through the expectations into the forwards before; `em_detach`: they do not."""
    temperature: float = 1.0
    """Of the softmax in the expectations."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not self.temperature > 0:
            raise ValueError(f"the temperature must be positive, got {self.temperature}")


class Stage2Objective:
    """The losses of one channel.

    Example: `Stage2Objective(coord_vocab.ids, channel="B", weights=SlotLossWeights(bbox_smoothl1=1, bbox_ciou=1), reduction="split")`
    """

    def __init__(
        self,
        coord_ids: Sequence[int],
        *,
        weights: SlotLossWeights,
        reduction: Reduction = "pooled",
        soft_context: SoftContext | None = None,
        rows: RowFunction = plain_rows,
    ) -> None:
        """Args beside the obvious.

        reduction: `split`: the mean over the slots of the prefix plus the mean over those of the tail, a group without slots counts 0; `pooled`: one mean.
        soft_context: further forwards, for Channel A.
        rows: reads the head.
        """
        self._coord_ids = torch.tensor(coord_ids, dtype=torch.long)
        self._weights, self._reduction, self._rows = weights, reduction, rows
        self._soft_context = soft_context or SoftContext(iterations=1)

    def denominators(self, batch: PackBatch) -> Tensor:
        """Float64[Tensor, "terms"] in the order of `TERMS`."""
        supervision = batch.supervision
        counts = [_counts(supervision.coord_weight[where]) for where in _groups(supervision)]
        if self._reduction == "pooled":
            counts = [torch.stack(counts).sum(0)] * len(GROUPS)
        return torch.cat((supervision.text_weight.sum(dtype=torch.float64).reshape(1), *counts))

    def run(self, model: nn.Module, batch: PackBatch, *, denominators: Tensor | None = None) -> PackLoss:
        """All forwards of one pack; `sums` in the order of `TERMS`."""
        coord_ids = self._ids_on(batch.supervision.coord_bins.device)
        first = last = forward_rows(model, batch.model_inputs, self._query(batch, with_text=True), rows=self._rows, coord_ids=coord_ids)
        for _ in range(1, self._soft_context.iterations):
            with soft_coordinates(model, self._expected(last), positions=batch.supervision.coord_positions, coord_ids=coord_ids):
                last = forward_rows(model, batch.model_inputs, self._query(batch, with_text=False), rows=self._rows, coord_ids=coord_ids)
        # a later forward has no text: its sum is 0 and ties the graph
        text = first.text_sum if last is first else first.text_sum + last.text_sum
        with torch.autocast(text.device.type, enabled=False):
            return PackLoss(sums=torch.cat((text.reshape(1), *self._slot_sums(last, batch))), metrics={})

    def describe_terms(self, terms: Tensor) -> dict[str, float]:
        """`loss/…` of the registry, from Float64[Tensor, "terms"]."""
        value = dict(zip(TERMS, terms.tolist(), strict=True))
        slots = {group: {term: value[f"{group}/{term}"] for term in SLOT_TERMS} for group in GROUPS}
        both = {term: sum(slots[group][term] for group in GROUPS) for term in SLOT_TERMS}
        single = {term: both[term] for term in SLOT_TERMS if term != "coord"}
        together = {
            "ce": value["ce"],
            "coord": sum(both.values()),
            "coord_prefix": sum(slots["prefix"].values()),
            "coord_tail": sum(slots["tail"].values()),
            "coord_reg": sum(both[term] for term in _REGULARIZERS),
        }
        return {f"loss/{name}": number for name, number in (together | single).items()}

    def _expected(self, result: RowResult) -> Tensor:
        logits = result.coord_logits / self._soft_context.temperature
        probs = torch.softmax(logits, dim=-1)
        return probs if self._soft_context.grad_mode == "unroll" else probs.detach()

    def _slot_sums(self, result: RowResult, batch: PackBatch) -> list[Tensor]:
        supervision, sums = batch.supervision, []
        for where in _groups(supervision):
            where = where & ~torch.full_like(where, batch.is_filler)
            parts = (result.coord_logits[where], result.coord_lse[where], supervision.coord_bins[where], supervision.coord_weight[where])
            sums.append(slot_terms(*parts, weights=self._weights))
        return sums

    def _query(self, batch: PackBatch, *, with_text: bool) -> RowQuery:
        supervision = batch.supervision
        text = slice(None) if with_text and not batch.is_filler else slice(0)
        gate = self._weights.distribution
        return RowQuery(
            text_rows=supervision.text_rows[text],
            text_targets=supervision.text_targets[text],
            text_weight=supervision.text_weight[text],
            coord_rows=supervision.coord_rows,
            coord_targets=self._ids_on(supervision.coord_bins.device)[supervision.coord_bins.round().long()],
            temperature=gate.temperature,
            is_lse_trained=gate.gate > 0,
        )

    def _ids_on(self, device: torch.device) -> Tensor:
        if self._coord_ids.device != device:
            self._coord_ids = self._coord_ids.to(device)
        return self._coord_ids


def _groups(supervision: Supervision) -> tuple[Tensor, Tensor]:
    """Bool[Tensor, "coordinates"] for each of `GROUPS`."""
    return supervision.is_prefix_coord, ~supervision.is_prefix_coord


def _counts(weight: Tensor) -> Tensor:
    """Denominators of the terms of one group, Float64[Tensor, "slot_terms"]."""
    total = weight.sum(dtype=torch.float64)
    return torch.stack([total if name in COORDINATE_TERMS else total / 4 for name in (*COORDINATE_TERMS, *BOX_TERMS)])


class ChannelObjectives:
    """The objective of each channel; all packs of a step are of the same one, named by their extra `channel`."""

    def __init__(self, objectives: Mapping[Channel, Stage2Objective], *, by_channel: bool) -> None:
        """by_channel: log every term also by its channel."""
        self._objectives, self._by_channel = objectives, by_channel

    def denominators(self, batch: PackBatch) -> Tensor:
        """See `Stage2Objective`."""
        return self._of(batch).denominators(batch)

    def run(self, model: nn.Module, batch: PackBatch, *, denominators: Tensor | None = None) -> PackLoss:
        """See `Stage2Objective`."""
        return self._of(batch).run(model, batch, denominators=denominators)

    def describe_step(self, batch: PackBatch, facts: StepFacts) -> Mapping[str, Metric]:
        """The terms of the step, over all steps and over those of its channel, and the seconds of its forwards."""
        fold, channel = MetricFold(), batch.extra("channel", reader=type(self).__name__)
        for key, value in self._of(batch).describe_terms(facts.terms).items():
            fold.add(key, total=value, count=1.0 / facts.world_size)
            if self._by_channel:
                fold.add(key.replace("loss/", f"loss/{channel}/", 1), total=value, count=1.0 / facts.world_size)
        fold.add("time/forward_s", total=facts.forward_s)
        return fold.snapshot()

    def _of(self, batch: PackBatch) -> Stage2Objective:
        return self._objectives[batch.extra("channel", reader=type(self).__name__)]
