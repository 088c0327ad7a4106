"""Optional losses on coordinate slots: expected distances under the distribution over the bins, and its entropy.

Notation as in `coordexp.losses.coordinates`: p is the softmax of a slot's coordinate logits, t its real-valued target bin. One value for each row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.geometry.bins import MAX_BIN, NUM_BINS


def distance_to_target(target_bins: Tensor) -> Tensor:
    """|k - t| / 999 for every bin k. Float[Tensor, "rows"] to Float[Tensor, "rows num_bins"]."""
    bins = torch.arange(NUM_BINS, device=target_bins.device, dtype=target_bins.dtype)
    return (bins - target_bins[:, None]).abs() / MAX_BIN


def expected_l1(p: Tensor, distance: Tensor) -> Tensor:
    """sum_k p_k d_k, the Wasserstein-1 distance to the target itself.

    Args:
        p: Float[Tensor, "rows num_bins"].
        distance: d, from `distance_to_target`.
    """
    return (p * distance).sum(-1)


def expected_huber(p: Tensor, distance: Tensor, *, beta: float) -> Tensor:
    """sum_k p_k h(d_k) with h(d) = 0.5 d^2 / beta for d < beta, else d - beta / 2.

    Args:
        p: Float[Tensor, "rows num_bins"].
        distance: d, from `distance_to_target`.
        beta: where quadratic turns to linear, in [0, 1] space; positive.
    """
    return (p * torch.where(distance < beta, 0.5 * distance.square() / beta, distance - 0.5 * beta)).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """-sum_k p_k log p_k, in nats. Float[Tensor, "rows num_bins"] to Float[Tensor, "rows"]."""
    # a bin that softmax gives exactly 0 has a log of -inf; its share of the entropy is 0
    finite = log_p.clamp_min(torch.finfo(log_p.dtype).min)
    return -(finite.exp() * finite).sum(-1)
