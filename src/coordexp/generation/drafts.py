"""Guesses at the next tokens of an answer, from what followed the same few tokens before: most of an answer is format, and the format repeats itself.

A guess costs a place in the next step of the model, which says by its own pick whether it was right; it never changes an answer. This is prompt lookup
decoding (a form of speculative decoding, Leviathan et al. 2023) over the answers of one call.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

_ORDERS = (8, 6, 4, 2, 1)
"""How many tokens a guess looks back; the most that have been seen before decide. Eight tell the fourth coordinate of a box from the others."""
_ANY_COORD = -1
"""Stands for every coordinate token: what follows them does not depend on the bin."""
_NO_GUESS = 0
"""Any token: the model's pick says whether it was right."""
_MIN_SHARE = 0.5
"""A step carries guesses if at least this share of its rows has one."""
_STEP_TOKENS = 32
"""As many tokens in a step take little longer than one: guesses for a row go up to that number, and to `_MAX_GUESSES`; one is always tried."""
_MAX_GUESSES = 7
_MAX_CONTEXTS = 200_000
"""Then all are forgotten: some 40 MB."""


class Drafter:
    """What the answers of one call have in common.

    Example:
        drafter = Drafter(1, coord_ids=(7, 8))
        for token in (1, 7, 2, 1, 8):
            drafter.push(0, token)
        drafter.guess(0) == [2]
    """

    def __init__(self, num_rows: int, *, coord_ids: Collection[int]) -> None:
        self._coord_ids = frozenset(coord_ids)
        self._answers: list[list[int]] = [[] for _ in range(num_rows)]
        self._next: dict[tuple[int, ...], int] = {}

    def push(self, row: int, token: int) -> None:
        """The next token of a row."""
        answer, kind = self._answers[row], _ANY_COORD if token in self._coord_ids else token
        if len(self._next) > _MAX_CONTEXTS:
            self._next.clear()
        for order in _ORDERS:
            self._next[tuple(answer[-order:])] = kind
        answer.append(kind)

    def guess(self, row: int, *, count: int = 1) -> list[int]:
        """Up to `count` tokens that may come next; fewer where nothing like it was seen, or a coordinate comes."""
        recent = self._answers[row][-_ORDERS[0] :]
        found: list[int] = []
        while len(found) < count:
            kind = next((kind for order in _ORDERS if (kind := self._next.get(tuple(recent[-order:]))) is not None), _ANY_COORD)
            if kind == _ANY_COORD:
                break
            found.append(kind)
            recent.append(kind)
        return found

    def guesses(self, rows: Sequence[int], is_running: Sequence[bool]) -> list[list[int]] | None:
        """As many tokens for each of these rows; None when too few of those that run have a guess."""
        count = min(_MAX_GUESSES, max(1, _STEP_TOKENS // len(rows) - 1))
        found = [self.guess(row, count=count) if runs else [] for row, runs in zip(rows, is_running, strict=True)]
        if sum(map(bool, found)) < _MIN_SHARE * sum(is_running):
            return None
        longest = max(map(len, found))
        return [guess + [_NO_GUESS] * (longest - len(guess)) for guess in found]
