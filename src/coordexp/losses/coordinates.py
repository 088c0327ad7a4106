"""Losses on coordinate slots: distributions over the bins, compared with a Gaussian around the target bin.

Notation: z are the coordinate logits of one position, p = softmax(z), t the real-valued target bin, q the Gaussian at t. All functions work on
flat rows: the 4 positions of a box (2N of a polygon) are simply rows. Each returns one value for each row; `coordinate_terms` sums.
Positions are selected by vocabulary ids, which need not be contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from coordexp.geometry.bins import MAX_BIN, NUM_BINS
from coordexp.losses.tokens import upcast


@dataclass(frozen=True, slots=True)
class CoordLossWeights:
    """How the terms are mixed. Example: pure cross-entropy over the whole vocabulary is `soft_ce=0, w1=0, ce=1, gate=1`."""

    soft_ce: float = 1.0
    w1: float = 1.0
    ce: float = 0.0
    gate: float = 1.0
    temperature: float = 1.0
    """Divides the logits in the gate only."""
    target_sigma: float = 2.0
    """Standard deviation of q, in bins."""
    target_truncate: float | None = 16.0
    """q is 0 farther than this many bins from t; None: nowhere."""

    def __post_init__(self) -> None:
        for name in ("soft_ce", "w1", "ce", "gate"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"the weight {name} must not be negative, got {getattr(self, name)}")
        if not self.temperature > 0 or not self.target_sigma > 0:
            raise ValueError(f"temperature and target_sigma must be positive, got {self.temperature} and {self.target_sigma}")
        if self.target_truncate is not None and self.target_truncate < 1:
            # with less than half a bin a real-valued target can lie between two bins and have no support at all
            raise ValueError(f"target_truncate must be at least 1 bin, got {self.target_truncate}")


@dataclass(frozen=True, slots=True)
class CoordTerms:
    """Weighted sums over the rows, each a scalar. `total` mixes the others by `CoordLossWeights`."""

    total: Tensor
    soft_ce: Tensor
    w1: Tensor
    ce: Tensor
    gate: Tensor

    def detach(self) -> CoordTerms:
        return CoordTerms(**{field.name: getattr(self, field.name).detach() for field in fields(self)})


def gaussian_targets(target_bins: Tensor, *, sigma: float, truncate: float | None) -> Tensor:
    """q_k = exp(-(k - t)^2 / (2 sigma^2)) for |k - t| <= truncate, else 0; normalized over the bins.

    Args:
        target_bins: Float[Tensor, "rows"], real-valued, in [0, 999].
        sigma: in bins.
        truncate: in bins.

    Returns:
        Float[Tensor, "rows num_bins"], rows sum to 1.
    """
    distance = torch.arange(NUM_BINS, device=target_bins.device, dtype=target_bins.dtype) - target_bins[:, None]
    weight = torch.exp(distance.square() * (-0.5 / sigma**2))
    if truncate is not None:
        weight = weight.masked_fill(distance.abs() > truncate, 0.0)
    return weight / weight.sum(-1, keepdim=True)


def soft_cross_entropy(log_p: Tensor, q: Tensor) -> Tensor:
    """-sum_k q_k log p_k."""
    return -(q * log_p).sum(-1)


def wasserstein_1(p: Tensor, q: Tensor) -> Tensor:
    """sum_k |CDF_p(k) - CDF_q(k)| / 999, in [0, 1]."""
    # one running sum of the difference: two running sums would each carry the rounding of a number near 1
    return (p - q).cumsum(-1).abs().sum(-1) / MAX_BIN


def hard_cross_entropy(log_p: Tensor, target_bins: Tensor) -> Tensor:
    """-log p[t]; between two bins the linear mix of both."""
    lower = target_bins.floor().clamp(0, MAX_BIN - 1)
    share = target_bins - lower
    at = lower.long()[:, None]
    near = log_p.gather(-1, torch.cat((at, at + 1), dim=-1))
    return -((1 - share) * near[:, 0] + share * near[:, 1])


def coordinate_gate(coord_logits: Tensor, vocab_lse: Tensor, *, temperature: float) -> Tensor:
    """-log sum_{k in coord} softmax(all logits / T)[k] = vocab_lse - logsumexp(coord_logits / T).

    Args:
        coord_logits: Float[Tensor, "rows num_bins"].
        vocab_lse: Float[Tensor, "rows"], logsumexp(all logits / T) of the same positions.
        temperature: T.
    """
    return vocab_lse - torch.logsumexp(coord_logits / temperature, dim=-1)


def coordinate_terms(coord_logits: Tensor, vocab_lse: Tensor, target_bins: Tensor, weight: Tensor, *, weights: CoordLossWeights) -> CoordTerms:
    """Weighted sums of all terms over the rows; the caller divides by the sum of `weight`.

    Terms with weight 0 in the mix are still computed (they are logged), outside the gradient.

    Args:
        coord_logits: Float[Tensor, "rows num_bins"], any float type; computed in float32 or wider.
        vocab_lse: Float[Tensor, "rows"], see `coordinate_gate`.
        target_bins: Float[Tensor, "rows"], real-valued, in [0, 999].
        weight: Float[Tensor, "rows"].
        weights: the mix.
    """
    logits = upcast(coord_logits)
    target_bins = target_bins.to(logits.dtype)
    log_p = torch.log_softmax(logits, dim=-1)
    q = gaussian_targets(target_bins, sigma=weights.target_sigma, truncate=weights.target_truncate)
    rows = {
        "soft_ce": soft_cross_entropy(log_p if weights.soft_ce else log_p.detach(), q),
        "w1": wasserstein_1((log_p if weights.w1 else log_p.detach()).exp(), q),
        "ce": hard_cross_entropy(log_p if weights.ce else log_p.detach(), target_bins),
        "gate": coordinate_gate(
            logits if weights.gate else logits.detach(), vocab_lse if weights.gate else vocab_lse.detach(), temperature=weights.temperature
        ),
    }
    sums = {name: (weight * values).sum() for name, values in rows.items()}
    # a term with weight 0 must not turn the total into NaN: 0 * inf
    mixed = [getattr(weights, name) * value for name, value in sums.items() if getattr(weights, name)]
    total = torch.stack(mixed).sum() if mixed else logits.sum() * 0.0
    return CoordTerms(total=total, **sums)
