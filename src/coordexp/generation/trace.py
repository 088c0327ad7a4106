"""Token probabilities of rows while they are generated: one number a token, and the 1,000-bin distribution at coordinate tokens. No logits are kept."""

from __future__ import annotations

from array import array

import torch
from torch import Tensor

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.types.rollouts import TokenTrace


class TraceRecorder:
    """Collects what `GenerationSample.trace` shows, from the model's own distribution: before penalty, temperature and top-p."""

    def __init__(self, coord_vocab: CoordVocabulary, *, num_rows: int, num_steps: int, vocab_size: int, device: torch.device) -> None:
        # the last column is for rows that have ended
        self._logprobs = torch.zeros(num_rows, num_steps + 1, device=device)
        self._coord_ids = torch.tensor(coord_vocab.ids, dtype=torch.long, device=device)
        self._is_coord = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self._is_coord[self._coord_ids] = True
        self._bins = tuple(range(len(coord_vocab.ids)))
        self._distributions: dict[tuple[int, int], array[float]] = {}

    def record(self, logits: Tensor, tokens: Tensor, *, rows: Tensor, steps: Tensor, is_running: Tensor) -> None:
        """Logits [N, V] and picked tokens [N] of the rows `rows` [N], each at its own step [N]; nothing is kept of rows that do not run."""
        self._logprobs[rows, steps] = logits.log_softmax(dim=-1).gather(-1, tokens[:, None]).squeeze(-1)
        coords = (self._is_coord[tokens] & is_running).nonzero().squeeze(-1)
        if len(coords) == 0:
            return
        # index_select goes by bin: the ids need not be ascending
        probs = logits[coords].index_select(-1, self._coord_ids).softmax(dim=-1).cpu().numpy()
        for row, step, distribution in zip(rows[coords].tolist(), steps[coords].tolist(), probs, strict=True):
            self._distributions[row, step] = array("f", distribution.tobytes())

    def trace(self, row: int, *, num_tokens: int) -> tuple[TokenTrace, ...]:
        """The first `num_tokens` entries of a row."""
        entries: list[TokenTrace] = []
        for step, logprob in enumerate(self._logprobs[row, :num_tokens].tolist()):
            distribution = self._distributions.get((row, step))
            entries.append(TokenTrace(logprob) if distribution is None else TokenTrace(logprob, self._bins, distribution))
        return tuple(entries)
