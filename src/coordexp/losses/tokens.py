"""Cross-entropy of next tokens, one value for each row: the caller weighs, sums and divides by its own denominator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def upcast(values: Tensor) -> Tensor:
    """float32 for the half precisions; float32 and float64 stay as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def cross_entropy_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """logsumexp_v logits[i, v] - logits[i, target_i], one value for each row.

    Args:
        logits: Float[Tensor, "num_tokens vocab"], row i predicts target i (the causal shift was done by the caller).
        targets: Long[Tensor, "num_tokens"], vocabulary ids.

    Returns:
        Float[Tensor, "num_tokens"], float32 or wider.
    """
    return F.cross_entropy(upcast(logits), targets, reduction="none")
