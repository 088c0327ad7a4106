"""Constrained decoding of a batch: which tokens each row may take next. numpy only; every backend uses it.

The loop guard of a constrained row does not cut it: from there on the row takes the shortest way to the end of its document.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coordexp.codec.answer_automaton import AnswerAutomaton, AnswerRow
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.piece_index import PieceIndex
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError

_MAX_AUTOMATA = 8
"""Specs that are remembered: a run has one."""


class AutomatonShelf:
    """The automata of one vocabulary, made when first asked for. For one thread at a time.

    Example: `shelf.start(ConstraintSpec(), max_new_tokens=512)` is a row that has written nothing yet.
    """

    def __init__(self, tokenizer: TextTokenizer, *, vocab_size: int, coord_vocab: CoordVocabulary | None, stop_ids: Sequence[int]) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.lock = threading.Lock()
        """For those who share it between threads."""
        self._coord_vocab, self._stop_ids = coord_vocab, tuple(stop_ids)
        self._index: PieceIndex | None = None
        self._automata: dict[ConstraintSpec, AnswerAutomaton] = {}

    def automaton(self, spec: ConstraintSpec) -> AnswerAutomaton:
        """Raises CheckpointError when the vocabulary is not byte-level."""
        known = self._automata.get(spec)
        if known is None:
            if self._index is None:
                self._index = PieceIndex.of(self.tokenizer, vocab_size=self.vocab_size, stop_ids=self._stop_ids)
            if len(self._automata) >= _MAX_AUTOMATA:
                self._automata.clear()
            known = self._automata[spec] = AnswerAutomaton(spec, self._index, coord_vocab=self._coord_vocab, stop_ids=self._stop_ids)
        return known

    def start(self, spec: ConstraintSpec, *, max_new_tokens: int) -> AnswerRow:
        """Raises BackendError when not even the empty answer fits into `max_new_tokens`."""
        try:
            return AnswerRow(self.automaton(spec), max_new_tokens=max_new_tokens)
        except ValueError as error:
            raise BackendError(f"no constrained answer is possible: {error}", fix="raise max_new_tokens") from error


class ConstrainedRows:
    """The rows of a batch, by their numbers."""

    def __init__(self, rows: Sequence[AnswerRow], *, vocab_size: int) -> None:
        self._rows, self._vocab_size = list(rows), vocab_size

    def allowed(self, numbers: Sequence[int]) -> npt.NDArray[np.bool_]:
        """[rows, vocabulary] what each of these may take next; a row that has ended may take anything."""
        mask = np.ones((len(numbers), self._vocab_size), dtype=bool)
        for line, number in zip(mask, numbers, strict=True):
            if not self._rows[number].is_done:
                self._rows[number].fill(line)
        return mask

    def push(self, numbers: Sequence[int], tokens: Sequence[int]) -> None:
        """Take the next token of each."""
        for number, token in zip(numbers, tokens, strict=True):
            row = self._rows[number]
            if not row.is_done and not row.push(token):
                raise BackendError(f"the token {token} is against the constraint: its logits are not finite", fix="check the weights of the checkpoint")

    def close_soon(self, number: int) -> None:
        """From now on this row takes the shortest way to the end."""
        self._rows[number].close_soon()

    def is_short(self, number: int) -> bool:
        """Whether the limit of tokens ever took some of this row's choice away."""
        return self._rows[number].is_short
