"""The loop guard: tells from token ids when a sequence repeats itself. numpy only; every backend uses this one.

The work for a token does not grow with the length of the sequence: one comparison with each of the last `ngram_size` tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

from coordexp.types.rollouts import RepeatLimits

_KEY = re.compile(rb'"object_[0-9]+"\s*:')
_NO_TOKEN = -1


class RepeatGuard:
    """Follows one sequence; give it every new token in order.

    For each distance p up to `ngram_size` it counts how many tokens in a row equal the one p places earlier. A piece of p tokens that fills the last
    L = `ngram_size * ngram_repeats` tokens has a count of at least L - p.

    Example:
        guard = RepeatGuard(RepeatLimits(min_new_tokens=0, ngram_size=2, ngram_repeats=2))
        [guard.push(token) for token in (5, 7, 5, 7)] == [False, False, False, True]
    """

    def __init__(self, limits: RepeatLimits, *, piece_of: Callable[[int], bytes] | None = None) -> None:
        """Args beside the obvious.

        piece_of: the bytes of a token, for instance `TextTokenizer.piece`; needed when `max_object_keys` is set.

        Raises:
            ValueError: a number of repetitions below 2, or `max_object_keys` without `piece_of`.
        """
        if min(limits.ngram_repeats, limits.max_consecutive_token_repeats) < 2:
            raise ValueError("a token or piece that stands once is no repetition: ngram_repeats and max_consecutive_token_repeats are at least 2")
        if limits.max_object_keys is not None and piece_of is None:
            raise ValueError("max_object_keys needs the bytes of tokens")
        self._limits = limits
        self._piece_of = piece_of
        self._num_tokens = 0
        self._recent = np.full(limits.ngram_size, _NO_TOKEN, dtype=np.int64)
        """The last tokens, the newest first."""
        self._equal = np.zeros(limits.ngram_size, dtype=np.int64)
        """[p - 1]: how many tokens in a row equal the one p places earlier."""
        self._is_loop_from = limits.ngram_size * limits.ngram_repeats - np.arange(1, limits.ngram_size + 1)
        self._num_keys = 0
        self._text = b""
        """What was written since the last colon."""

    def push(self, token: int) -> bool:
        """Take the next token; True: the sequence loops and should end here."""
        limits = self._limits
        self._num_tokens += 1
        self._equal += 1
        self._equal *= self._recent == token
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token
        if limits.max_object_keys is not None:
            self._count_keys(token)
        if self._num_tokens < limits.min_new_tokens:
            return False
        if limits.max_object_keys is not None and self._num_keys > limits.max_object_keys:
            return True
        return int(self._equal[0]) + 1 >= limits.max_consecutive_token_repeats or bool((self._equal >= self._is_loop_from).any())

    def copy(self) -> RepeatGuard:
        """A guard that has seen the same tokens and goes its own way, for instance for another beam."""
        twin = RepeatGuard(self._limits, piece_of=self._piece_of)
        twin._num_tokens, twin._num_keys, twin._text = self._num_tokens, self._num_keys, self._text
        twin._recent, twin._equal = self._recent.copy(), self._equal.copy()
        return twin

    def _count_keys(self, token: int) -> None:
        assert self._piece_of is not None
        piece = self._piece_of(token)
        self._text += piece
        if b":" in piece:
            self._num_keys += len(_KEY.findall(self._text))
            self._text = self._text[self._text.rindex(b":") + 1 :]


def loop_end(token_ids: Iterable[int], limits: RepeatLimits, *, piece_of: Callable[[int], bytes] | None = None) -> int | None:
    """How many tokens of a whole sequence the guard would have let through, the one that ends it included; None: it does not loop."""
    guard = RepeatGuard(limits, piece_of=piece_of)
    return next((number for number, token in enumerate(token_ids, start=1) if guard.push(token)), None)
