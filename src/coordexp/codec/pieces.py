"""Token ids to text, with the characters that each token covers. Linear; bytes that are not UTF-8 become U+FFFD, as in every byte-level decoder.

A character that is split over several tokens belongs to each of them. Ids that the tokenizer does not know cover nothing.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from coordexp.codec.text_tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class TextPieces:
    """A token sequence and its text.

    Example: `"]}}` in two tokens is `TextPieces(text='"]}}', starts=(0, 2), ends=(2, 4), …)`.
    """

    token_ids: tuple[int, ...]
    pieces: tuple[bytes, ...]
    """What each token stands for."""
    text: str
    starts: tuple[int, ...]
    """First character of each token; never decreases."""
    ends: tuple[int, ...]
    """One past the last character of each token; never decreases."""

    def token_span(self, start: int, end: int) -> tuple[int, int]:
        """Half-open span of the tokens that cover characters of `text[start:end]`, also only a part of them."""
        first = bisect_right(self.ends, start)
        return first, max(first, bisect_left(self.starts, end))


def decode_pieces(token_ids: Sequence[int], *, tokenizer: TextTokenizer) -> TextPieces:
    """Decode without cleaning up, special tokens as their text."""
    pieces = tokenizer.pieces(token_ids)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position, is_inside_char = 0, False
    for piece in pieces:
        part = decoder.decode(piece)
        starts.append(position)
        position += len(part)
        if not piece.isascii() or is_inside_char:
            is_inside_char = bool(decoder.getstate()[0])
        ends.append(position + is_inside_char)
        parts.append(part)
    parts.append(decoder.decode(b"", final=True))
    text = "".join(parts)
    return TextPieces(token_ids=tuple(token_ids), pieces=tuple(pieces), text=text, starts=tuple(starts), ends=tuple(ends))


def cut_pieces(pieces: TextPieces, end: int, *, tokenizer: TextTokenizer) -> tuple[tuple[int, ...], int]:
    """The ids of `text[:end]`, and how many of them at the end replace the one token that the cut fell into (0: the cut fell between tokens).

    Every id before that token stays as it is. `end` must follow a complete character.
    """
    num_tokens = bisect_left(pieces.starts, end)
    if num_tokens == 0 or pieces.ends[num_tokens - 1] == end:
        return pieces.token_ids[:num_tokens], 0
    last = num_tokens - 1
    replacement = tokenizer.encode_bytes(_bytes_up_to(pieces, last, end))
    return pieces.token_ids[:last] + replacement, len(replacement)


def _bytes_up_to(pieces: TextPieces, last: int, end: int) -> bytes:
    """The bytes of token `last` that spell characters before `end`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    num_chars = len(decoder.decode(b"".join(pieces.pieces[:last])))
    piece = pieces.pieces[last]
    for num_bytes in range(1, len(piece) + 1):
        num_chars += len(decoder.decode(piece[num_bytes - 1 : num_bytes]))
        if num_chars >= end:
            return piece[:num_bytes]
    return piece
