"""Soft self-context: the embedding of a coordinate is the expectation of the coordinate embeddings under the model's own distribution.

The replacement happens inside the input embedding's own forward, so the model still gets `input_ids`: image placeholders are found by id and their
embeddings stay bitwise what they are, rope positions do not change, and wrappers (PEFT, DDP, FSDP2, gradient checkpointing) see an ordinary forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn


@contextmanager
def soft_coordinates(model: nn.Module, probs: Tensor, *, positions: Tensor, coord_ids: Tensor) -> Iterator[None]:
    """While active, token p of `positions` enters the model as sum_k probs[p, k] E_k in place of its own embedding.

    E_k are read through the embedding module at each forward, adapters and trained rows included; gradients reach them and `probs`.

    Args:
        model: a causal model, alone or wrapped.
        probs: Float[Tensor, "slots num_bins"]; rows sum to 1.
        positions: Long[Tensor, "slots"], flat positions in `input_ids`, each once.
        coord_ids: Long[Tensor, "num_bins"], vocabulary ids by bin.
    """
    embedding = extract_model_from_parallel(model).get_input_embeddings()
    own_attribute, own = embedding.__dict__.get("forward"), embedding.forward

    def forward(input_ids: Tensor) -> Tensor:
        rows = own(input_ids)
        with torch.autocast(rows.device.type, enabled=False):
            table = own(coord_ids)
            wide = torch.promote_types(probs.dtype, table.dtype)
            mixed = probs.to(wide) @ table.to(wide)
            return rows.flatten(0, -2).index_copy(0, positions, mixed.to(rows.dtype)).view_as(rows)

    embedding.forward = forward
    try:
        yield
    finally:
        if own_attribute is None:
            del embedding.forward
        else:
            embedding.forward = own_attribute
