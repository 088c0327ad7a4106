"""Token probabilities of a batch while it is generated: one number a token, and the 1,000-bin distribution at coordinate tokens. No logits are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.types.rollouts import TokenTrace


class TraceRecorder:
    """Collects what `GenerationSample.trace` shows, from the model's own distribution: before penalty, temperature and top-p."""

    def __init__(self, coord_vocab: CoordVocabulary, *, num_rows: int, num_steps: int, vocab_size: int, device: torch.device) -> None:
        self._logprobs = torch.zeros(num_rows, num_steps, device=device)
        self._coord_ids = torch.tensor(coord_vocab.ids, dtype=torch.long, device=device)
        self._is_coord = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._is_coord[self._coord_ids] = True
        self._bins = tuple(range(len(coord_vocab.ids)))
        self._distributions: dict[tuple[int, int], tuple[float, ...]] = {}

    def record(self, logits: Tensor, tokens: Tensor, *, rows: Tensor, step: int) -> None:
        """Logits [N, V] and picked tokens [N] of the batch rows `rows` [N] at `step`."""
        chosen = logits.gather(-1, tokens[:, None]).squeeze(-1)
        self._logprobs[rows, step] = chosen - logits.logsumexp(dim=-1)
        is_coord = self._is_coord[tokens]
        if not bool(is_coord.any()):
            return
        # index_select goes by bin: the ids need not be ascending
        probs = logits[is_coord].index_select(-1, self._coord_ids).softmax(dim=-1)
        for row, distribution in zip(rows[is_coord].tolist(), probs.tolist(), strict=True):
            self._distributions[row, step] = tuple(distribution)

    def trace(self, row: int, *, num_tokens: int) -> tuple[TokenTrace, ...]:
        """The first `num_tokens` entries of a row."""
        entries: list[TokenTrace] = []
        for step, logprob in enumerate(self._logprobs[row, :num_tokens].tolist()):
            distribution = self._distributions.get((row, step))
            entries.append(TokenTrace(logprob) if distribution is None else TokenTrace(logprob, self._bins, distribution))
        return tuple(entries)
