"""A whole vocabulary by its bytes, so that the tokens that fit a place are found without looking at each. Built once for a tokenizer."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.types.errors import CheckpointError

State = TypeVar("State")

_NEEDED_BYTES = (*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5))


@dataclass(frozen=True, eq=False)
class PieceIndex:
    """Every token that stands for ordinary text; special tokens (coordinates, the end, placeholders) are not among them.

    Example: `PieceIndex.of(tokenizer).pieces[0] == b" "`
    """

    vocab_size: int
    """Width of the logits: rows beyond the tokenizer's are never allowed."""
    pieces: Sequence[bytes]
    """Ascending."""
    ids: npt.NDArray[np.int32]
    """[pieces] the token of each; several tokens may have the same piece."""
    known: Mapping[bytes, int]
    """Piece → the first of its tokens."""
    longest: int
    """Bytes of the longest piece."""
    tokenizer: TextTokenizer
    special: frozenset[int]
    """Tokens that stand for no text."""

    @classmethod
    def of(cls, tokenizer: TextTokenizer, *, vocab_size: int, stop_ids: Collection[int] = ()) -> PieceIndex:
        """`stop_ids` end an answer: they are no text, whatever the tokenizer says of them.

        Raises:
            CheckpointError: the vocabulary is not byte-level, or a byte has no token.
        """
        special = tokenizer.special_ids().union(stop_ids)
        texts = ((tokenizer.piece(token_id), token_id) for token_id in range(vocab_size) if token_id not in special)
        pairs = sorted(pair for pair in texts if pair[0])
        pieces = [piece for piece, _ in pairs]
        known = dict(reversed(pairs))
        missing = [byte for byte in _NEEDED_BYTES if bytes([byte]) not in known]
        if missing:
            fix = "use a byte-level BPE tokenizer with its whole alphabet, such as Qwen3-VL's"
            raise CheckpointError(f"byte 0x{missing[0]:02x} has no token", where="tokenizer", fix=fix)
        ids = np.array([token_id for _, token_id in pairs], dtype=np.int32)
        return cls(vocab_size, pieces, ids, known, max(map(len, pieces)), tokenizer, special)

    def walk(self, start: State, step: Callable[[State, int], State | None]) -> Iterator[tuple[int, State]]:
        """(place in `pieces`, state after it) of every piece that `step` lets through. A beginning that it refuses is not gone into."""
        waiting = [(low, high, 1, state) for byte, low, high in self._first_bytes if (state := step(start, byte)) is not None]
        while waiting:
            low, high, depth, state = waiting.pop()
            while low < high and len(self.pieces[low]) == depth:
                yield low, state
                low += 1
            while low < high:
                byte = self.pieces[low][depth]
                end = high if byte == 0xFF else bisect_left(self.pieces, self.pieces[low][:depth] + bytes([byte + 1]), low, high)
                following = step(state, byte)
                if following is not None:
                    waiting.append((low, end, depth + 1, following))
                low = end

    def run_table(self, table: npt.NDArray[np.int16], start: int, *, exits: npt.NDArray[np.bool_], exit_byte: int) -> TableRun:
        """Drive every piece through a table of states at once.

        Args:
            table: [states, 256] the state that follows; -1: none.
            start: state before the first byte.
            exits: [states] where `exit_byte` leads out of the table.
            exit_byte: a byte like others everywhere else.
        """
        num_states = len(table)
        dead, out = num_states, num_states + 1
        steps = np.full((num_states + 2, 256), dead, dtype=np.int16)
        steps[:num_states] = np.where(table < 0, dead, table)
        steps[:num_states, exit_byte][exits] = out
        steps[out] = out
        order, columns = self._columns
        states = np.full(len(order), start, dtype=np.int16)
        left_at = np.zeros(len(order), dtype=np.int32)
        for position, column in enumerate(columns):
            before = states[: len(column)]
            after = steps[before, column]
            left_at[: len(column)][(after == out) & (before != out)] = position + 1
            states[: len(column)] = after
        final, lengths = np.empty_like(states), np.empty_like(left_at)
        final[order], lengths[order] = states, left_at
        left = np.flatnonzero(final == out)
        return TableRun(states=np.where(final < num_states, final, np.int16(-1)), left=left, left_at=lengths[left])

    @cached_property
    def _first_bytes(self) -> list[tuple[int, int, int]]:
        """(first byte, from, to) of the pieces."""
        firsts = np.array([piece[0] for piece in self.pieces], dtype=np.int64)
        bounds = np.searchsorted(firsts, np.arange(257))
        return [(byte, int(bounds[byte]), int(bounds[byte + 1])) for byte in range(256) if bounds[byte] < bounds[byte + 1]]

    @cached_property
    def _columns(self) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.uint8]]]:
        """The pieces from the longest to the shortest, and the n-th byte of each that has one."""
        lengths = np.array([len(piece) for piece in self.pieces])
        order = np.argsort(-lengths, kind="stable")
        text = np.frombuffer(b"".join(self.pieces), dtype=np.uint8)
        starts = (np.cumsum(lengths) - lengths)[order]
        counts = [int((lengths > position).sum()) for position in range(self.longest)]
        return order, [text[starts[:count] + position] for position, count in enumerate(counts)]


@dataclass(frozen=True, eq=False)
class TableRun:
    """What became of each piece."""

    states: npt.NDArray[np.int16]
    """[pieces] the state behind it; -1: it was refused, or led out."""
    left: npt.NDArray[np.int64]
    """[out] places of those that led out of the table,"""
    left_at: npt.NDArray[np.int32]
    """[out] and how many bytes of each had been taken then."""
