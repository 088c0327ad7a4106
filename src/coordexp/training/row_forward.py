"""One forward of the wrapped model that ends in the rows that losses read. Everything with a gradient passes through the output of the outermost module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from coordexp.losses.rows import OutputHead, RowFunction, RowQuery, RowResult
from coordexp.models.head import forward_through_head


def forward_rows(model: nn.Module, inputs: Mapping[str, Tensor], query: RowQuery, *, rows: RowFunction, coord_ids: Tensor) -> RowResult:
    """What `rows` reads from the head, after all wrappers.

    DDP and FSDP2 prepare the backward at the tensors that a forward returns: nothing that was computed inside may leave by another way.

    Args:
        model: a causal model, alone or inside PEFT, DDP or FSDP2.
        inputs: of its forward.
        query: rows and targets.
        rows: `plain_rows` or `lean_rows`.
        coord_ids: Long[Tensor, "num_bins"].
    """
    results: list[RowResult] = []

    def compute(hidden: Tensor, head: OutputHead) -> Tensor:
        result = rows(hidden, head, query, coord_ids=coord_ids)
        results.append(result)
        return torch.cat((result.text_sum.reshape(1), result.coord_lse, result.coord_logits.flatten()))

    output = forward_through_head(model, inputs, compute)
    num_slots = len(query.coord_rows)
    text_sum, lse, logits = output[0], output[1 : 1 + num_slots], output[1 + num_slots :]
    return replace(results[-1], text_sum=text_sum, coord_lse=lse, coord_logits=logits.view(num_slots, len(coord_ids)))
