"""The next token from the logits: greedy or sampled, each row with its own random numbers.

The order of the operations is that of transformers' `generate`: repetition penalty, what the constraint forbids, temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from coordexp.generation.constrained import ConstrainedRows
from coordexp.types.rollouts import GenerationSettings


class TokenPicker:
    """Picks one token for each row of a batch.

    A row draws its uniform numbers from its own seed, one for each step, and a token is found by inverting the cumulative distribution:
    what a row gets does not depend on the rows beside it.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        *,
        seeds: Sequence[int],
        prompt_ids: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device,
        constrained: ConstrainedRows | None = None,
    ) -> None:
        self._settings, self._constrained = settings, constrained
        self._uniforms = _uniforms(seeds, num_steps=settings.max_new_tokens, device=device) if settings.temperature > 0 else None
        self._is_seen = seen_tokens(prompt_ids, vocab_size=vocab_size, device=device) if settings.repetition_penalty != 1.0 else None

    def pick(self, logits: Tensor, *, rows: Tensor, steps: Tensor) -> Tensor:
        """Token ids [N] for the rows `rows` [N], which have written `steps` [N] tokens, with float32 logits [N, V]. A row that is full gets any token."""
        if self._is_seen is not None:
            logits = torch.where(self._is_seen[rows], penalize(logits, self._settings.repetition_penalty), logits)
        numbers = [] if self._constrained is None else rows.tolist()
        if self._constrained is not None:
            logits = logits.masked_fill(~torch.from_numpy(self._constrained.allowed(numbers)).to(logits.device), -torch.inf)
        tokens = (
            logits.argmax(dim=-1)
            if self._uniforms is None
            else _sample(logits, self._settings, uniforms=self._uniforms[rows, steps.clamp(max=self._settings.max_new_tokens - 1)])
        )
        if self._is_seen is not None:
            self._is_seen[rows, tokens] = True
        if self._constrained is not None:
            self._constrained.push(numbers, tokens.tolist())
        return tokens


def penalize(scores: Tensor, penalty: float) -> Tensor:
    """What a token that was seen gets: negative scores times the penalty, others divided by it."""
    return torch.where(scores < 0, scores * penalty, scores / penalty)


def _uniforms(seeds: Sequence[int], *, num_steps: int, device: torch.device) -> Tensor:
    """[rows, num_steps] float64 in [0, 1); drawn on the CPU so that a device has no say."""
    draws = [torch.rand(num_steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws).to(device)


def seen_tokens(prompt_ids: Sequence[Sequence[int]], *, vocab_size: int, device: torch.device) -> Tensor:
    seen = torch.zeros(len(prompt_ids), vocab_size, dtype=torch.bool)
    for row, ids in enumerate(prompt_ids):
        seen[row, torch.as_tensor(ids, dtype=torch.long)] = True
    return seen.to(device)


def _sample(logits: Tensor, settings: GenerationSettings, *, uniforms: Tensor) -> Tensor:
    """Inverse-CDF sampling; `uniforms` [N]."""
    logits = logits.double() / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        smallest = logits.topk(settings.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probs, ids = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    cumulative = probs.cumsum(dim=-1)
    # the nucleus: the fewest tokens whose probabilities reach top_p, at least one
    is_inside = (cumulative - probs < settings.top_p) & (probs > 0)
    is_inside[:, 0] = True
    total = (probs * is_inside).sum(dim=-1, keepdim=True)
    places = torch.searchsorted(cumulative, uniforms[:, None] * total, right=True)
    last = is_inside.sum(dim=-1, keepdim=True) - 1
    return ids.gather(-1, torch.minimum(places, last)).squeeze(-1)
