"""A laid-out target as tokens: the model's own ids wherever a fragment holds whole tokens of its answer, the tokenizer's choice for everything else.

A token that a border falls into is re-tokenized together with the text behind the border, so that the ids are those the whole text would have, as far as the
model's own tokens allow. Where the text behind must start a token, or the kept part is no whole text, the kept part is tokenized by itself, byte for byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.pieces import TextPieces
from coordexp.codec.serialize import END_TEXT
from coordexp.codec.text_tokenizer import TextTokenizer, Tokens
from coordexp.targets.layout import Fragment, Layout
from coordexp.types.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class SplicedTokens:
    """The tokens of a target."""

    tokens: Tokens
    num_joins: int
    """Stretches between two coordinates (or ends of the text) with a border between the model's tokens and others."""
    num_noncanonical_joins: int
    """Those of them that the tokenizer itself would have cut differently."""


def splice(layout: Layout, *, pieces: TextPieces, num_own: int, tokenizer: TextTokenizer, coord_vocab: CoordVocabulary) -> SplicedTokens:
    """Tokenize a target.

    Args:
        layout: the text and its authors.
        pieces: the tokens of the prefix.
        num_own: how many of them, from the first, are the model's own; the others spell the kept part of a token that was cut.
        tokenizer: of the model.
        coord_vocab: its coordinates.

    Raises:
        CheckpointError: the end is not one token.
    """
    assembly = _Assembly(pieces, num_own=num_own, tokenizer=tokenizer)
    for fragment in layout.fragments:
        assembly.add(fragment)
    assembly.flush()
    if not assembly.offsets or assembly.offsets[-1] != (len(layout.whole.text) - len(END_TEXT), len(layout.whole.text)):
        raise CheckpointError(f"{END_TEXT} is not one token", where="tokenizer", fix="use a checkpoint with the chat tokens of Qwen3-VL")
    canonical = list(_check_joins(layout, assembly.ids, assembly.offsets, tokenizer=tokenizer, coord_vocab=coord_vocab))
    return SplicedTokens(
        tokens=Tokens(ids=tuple(assembly.ids), offsets=tuple(assembly.offsets)), num_joins=len(canonical), num_noncanonical_joins=canonical.count(False)
    )


class _Assembly:
    """Ids and offsets, and the text that waits to be tokenized in one go."""

    def __init__(self, pieces: TextPieces, *, num_own: int, tokenizer: TextTokenizer) -> None:
        self.ids: list[int] = []
        self.offsets: list[tuple[int, int]] = []
        self._pieces = pieces
        self._num_own = num_own
        self._tokenizer = tokenizer
        self._position = 0
        """One past the last character so far, those that wait included."""
        self._waiting = ""

    def add(self, fragment: Fragment) -> None:
        """Append a fragment."""
        if fragment.source is not None:
            self._add_own(fragment.source, fragment.source + len(fragment.text))
        else:
            if fragment.starts_token:
                self.flush()
            self._waiting += fragment.text
            self._position += len(fragment.text)

    def flush(self) -> None:
        """Tokenize what waits."""
        if self._waiting:
            tokens = self._tokenizer.encode(self._waiting)
            shift = self._position - len(self._waiting)
            self.ids.extend(tokens.ids)
            self.offsets.extend((start + shift, end + shift) for start, end in tokens.offsets)
            self._waiting = ""

    def _add_own(self, start: int, end: int) -> None:
        starts, ends = self._pieces.starts, self._pieces.ends
        shift = self._position - start
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        if first and ends[first - 1] > start:
            self._add_part(first - 1, start, min(ends[first - 1], end), shift=shift)
        is_last_cut = last > first and ends[last - 1] > end
        stop = min(last - is_last_cut, max(self._num_own, first))
        if stop > first:
            self.flush()
            self.ids.extend(self._pieces.token_ids[first:stop])
            self.offsets.extend((starts[number] + shift, ends[number] + shift) for number in range(first, stop))
            self._position = ends[stop - 1] + shift
        for number in range(stop, last):
            self._add_part(number, starts[number], min(ends[number], end), shift=shift)

    def _add_part(self, number: int, start: int, end: int, *, shift: int) -> None:
        """The characters `start` to `end` of a token that may not stay as it is."""
        part = _bytes_of(self._pieces, number, start, end)
        if part.isascii() or self._is_faithful(part):
            self._waiting += part.decode()
        else:
            self.flush()
            ids = self._tokenizer.encode_bytes(part)
            self.ids.extend(ids)
            self.offsets.extend([(start + shift, end + shift)] * len(ids))
        self._position = end + shift

    def _is_faithful(self, part: bytes) -> bool:
        """Whether the tokenizer spells these bytes as they are: they are whole characters, which it does not normalize."""
        try:
            ids = self._tokenizer.encode(part.decode()).ids
        except UnicodeDecodeError:
            return False
        return b"".join(self._tokenizer.pieces(ids)) == part


def _bytes_of(pieces: TextPieces, number: int, start: int, end: int) -> bytes:
    """The bytes of a token that spell characters `start` to `end`; borders inside a token lie between ASCII characters.

    ASCII bytes and ASCII characters come in the same number and order, whatever the other bytes decode to.
    """
    piece, token_start, token_end = pieces.pieces[number], pieces.starts[number], pieces.ends[number]
    is_ascii_at = [place for place, byte in enumerate(piece) if byte < 0x80]
    first = sum(char < "\x80" for char in pieces.text[token_start:start])
    last = first + sum(char < "\x80" for char in pieces.text[start:end])
    low = 0 if start == token_start else is_ascii_at[first]
    high = len(piece) if end == token_end else is_ascii_at[last - 1] + 1
    return piece[low:high]


def _check_joins(
    layout: Layout, ids: Sequence[int], offsets: Sequence[tuple[int, int]], *, tokenizer: TextTokenizer, coord_vocab: CoordVocabulary
) -> Iterator[bool]:
    """For each stretch with a border in it: whether the tokenizer would have cut it so. Coordinates and the end are tokens of their own in every text."""
    is_fixed = [number for number, token_id in enumerate(ids[:-1]) if coord_vocab.bin_of(token_id) is not None]
    fixed = [-1, *is_fixed, len(ids) - 1]
    starts = [offsets[number][0] if number >= 0 else 0 for number in fixed]
    seen = -1
    position = 0
    for left, _ in pairwise(layout.fragments):
        position += len(left.text)
        stretch = bisect_left(starts, position) - 1
        if stretch == seen:
            continue
        seen = stretch
        first, last = fixed[stretch] + 1, fixed[stretch + 1]
        text = layout.whole.text[offsets[first - 1][1] if first else 0 : offsets[last][0]]
        yield tokenizer.encode(text).ids == tuple(ids[first:last])
