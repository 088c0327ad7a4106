"""What losses read from the output head: cross-entropy of text rows, coordinate logits and the normalizer of coordinate rows, and numbers for diagnostics.

`plain_rows` forms all logits of the rows it was given: the referee. `coordexp.losses.lean.lean_rows` returns the same without ever holding them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from coordexp.losses.tokens import cross_entropy_rows, upcast

_COUNTED_AT_ONCE: Final = 2**20


@dataclass(frozen=True, slots=True)
class Product:
    """One matrix product of a head: `inputs @ weight.T`. A bias is the product with a column of ones."""

    inputs: Tensor
    """Float[Tensor, "rows width"]"""
    weight: Tensor
    """Float[Tensor, "vocab width"]"""


@dataclass(frozen=True, slots=True)
class HeadProducts:
    """A head for given rows as a sum of matrix products; in the first one the columns `row_ids` come from `rows` in place of its weight."""

    products: tuple[Product, ...]
    row_ids: Tensor | None = None
    """Long[Tensor, "replaced"], vocabulary ids."""
    rows: Tensor | None = None
    """Float[Tensor, "replaced width"]"""


class OutputHead(Protocol):
    """From last hidden states to logits over the vocabulary."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Float[Tensor, "... width"] to Float[Tensor, "... vocab"], differentiable in everything."""
        ...

    def products(self, hidden: Tensor) -> HeadProducts | None:
        """The same for Float[Tensor, "rows width"], not yet multiplied; None when the head is of a kind that has no such form."""
        ...


@dataclass(frozen=True, slots=True)
class RowQuery:
    """What is wanted. Row r means `hidden.flatten(0, -2)[r]`, the position that predicts the target. Rows may repeat; any part may be empty."""

    text_rows: Tensor
    """Long[N]"""
    text_targets: Tensor
    """Long[N], vocabulary ids."""
    text_weight: Tensor
    """Float[N]"""
    coord_rows: Tensor
    """Long[M]"""
    coord_targets: Tensor
    """Long[M], vocabulary ids, for diagnostics only."""
    temperature: float = 1.0
    """Divides the logits in `RowResult.coord_lse`."""
    is_lse_trained: bool = True
    """False: `RowResult.coord_lse` is outside the gradient."""
    lse_share: Tensor | None = None
    """Float[M]: the gradient that `coord_lse` will receive, where that of `text_sum` is 1 (without text rows: up to one factor). With it `lean_rows` need not
    go through the coordinate rows again in the backward; one that turns out wrong costs time, not correctness."""


@dataclass(frozen=True, slots=True)
class RowStats:
    """Numbers for diagnostics, one a row, outside the gradient."""

    is_hit: Tensor
    """Bool[rows]: the target is the most likely id."""
    num_above: Tensor
    """Long[rows]: how many ids are more likely than the target."""
    is_coord_best: Tensor
    """Bool[rows]: the most likely id is a coordinate token."""
    coord_mass: Tensor
    """Float[rows]: probability on the coordinate tokens."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """Float32 or wider. With gradient unless said otherwise."""

    text_sum: Tensor
    """sum_i w_i * cross-entropy_i, a scalar."""
    text_ce: Tensor
    """Float[N], outside the gradient."""
    coord_logits: Tensor
    """Float[M, num_bins]"""
    coord_lse: Tensor
    """Float[M]: logsumexp(all logits / temperature)."""
    text: RowStats
    coord: RowStats


class RowFunction(Protocol):
    """`plain_rows` or `lean_rows`."""

    def __call__(self, hidden: Tensor, head: OutputHead, query: RowQuery, *, coord_ids: Tensor) -> RowResult: ...


def plain_rows(hidden: Tensor, head: OutputHead, query: RowQuery, *, coord_ids: Tensor) -> RowResult:
    """Through the logits of every row of `hidden`.

    Args:
        hidden: Float[Tensor, "... width"], last hidden states.
        head: the output head.
        query: rows and targets.
        coord_ids: Long[Tensor, "num_bins"].
    """
    flat = head.logits(hidden).flatten(0, -2)
    # only the head itself runs in the format of autocast
    with torch.autocast(hidden.device.type, enabled=False):
        text_logits = upcast(flat.index_select(0, query.text_rows))
        slot_logits = upcast(flat.index_select(0, query.coord_rows))
        text_ce = cross_entropy_rows(text_logits, query.text_targets)
        scaled = slot_logits if query.temperature == 1.0 else slot_logits / query.temperature
        return RowResult(
            text_sum=(query.text_weight * text_ce).sum(),
            text_ce=text_ce.detach(),
            coord_logits=slot_logits.index_select(1, coord_ids),
            coord_lse=torch.logsumexp(scaled if query.is_lse_trained else scaled.detach(), dim=-1),
            text=row_stats(text_logits, query.text_targets, coord_ids),
            coord=row_stats(slot_logits, query.coord_targets, coord_ids),
        )


@torch.no_grad()
def row_stats(logits: Tensor, targets: Tensor, coord_ids: Tensor) -> RowStats:
    """Diagnostics of Float[Tensor, "rows vocab"]."""
    target_logit = logits.gather(1, targets[:, None])
    mass = torch.exp(torch.logsumexp(logits.index_select(1, coord_ids), dim=-1) - torch.logsumexp(logits, dim=-1))
    best = logits.argmax(-1)
    return RowStats(is_hit=best == targets, num_above=count_above(logits, target_logit), is_coord_best=torch.isin(best, coord_ids), coord_mass=mass)


def count_above(logits: Tensor, bound: Tensor) -> Tensor:
    """How many of Float[Tensor, "rows vocab"] exceed Float[Tensor, "rows 1"], for each row."""
    # a few rows at a time: a sum of booleans goes through integers of 8 bytes
    size = max(1, _COUNTED_AT_ONCE // logits.shape[1])
    return torch.cat([(part > own).sum(-1) for part, own in zip(logits.split(size), bound.split(size), strict=True)])
