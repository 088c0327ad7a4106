"""Coordinate tokens: how a bin is spelled in text, and which vocabulary id it has. Ids are looked up, never computed from an offset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from coordexp.geometry.bins import MAX_BIN, NUM_BINS
from coordexp.types.errors import CheckpointError

_COORD_TOKEN = re.compile(r"<\|coord_(0|[1-9][0-9]*)\|>")


class HasVocab(Protocol):
    def get_vocab(self) -> Mapping[str, int]: ...


def coord_token(k: int) -> str:
    """Example: `coord_token(110) == "<|coord_110|>"`.

    Raises:
        ValueError: k is not a bin.
    """
    if not 0 <= k <= MAX_BIN:
        raise ValueError(f"coordinate bin {k} is outside 0..{MAX_BIN}")
    return f"<|coord_{k}|>"


def parse_coord_token(text: str) -> int | None:
    """The bin that `text` spells; None when it is not exactly one coordinate token (`<|coord_1000|>` and `<|coord_007|>` are not)."""
    found = _COORD_TOKEN.fullmatch(text)
    if found is None or len(found[1]) > len(str(MAX_BIN)):
        return None
    k = int(found[1])
    return k if k <= MAX_BIN else None


@cache
def coord_tokens() -> tuple[str, ...]:
    """All coordinate tokens, by bin."""
    return tuple(coord_token(k) for k in range(NUM_BINS))


@dataclass(frozen=True)
class CoordVocabulary:
    """The vocabulary ids of the coordinate tokens.

    Example: `CoordVocabulary(ids=(151670, 151671, …))`: bin k has the id `ids[k]`; the ids need not be contiguous or ascending.
    """

    ids: tuple[int, ...]
    """[NUM_BINS], or empty: a vocabulary without coordinate tokens, as stock Qwen3-VL's."""
    _bins: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_bins", {token_id: k for k, token_id in enumerate(self.ids)})
        if (len(self.ids) != NUM_BINS and self.ids) or len(self._bins) != len(self.ids):
            raise ValueError(f"a coordinate vocabulary has {NUM_BINS} different ids, not {len(self._bins)}")

    @classmethod
    def from_tokenizer(cls, tokenizer: HasVocab, *, where: str | None = None) -> CoordVocabulary:
        """Look the tokens up in a tokenizer (`where` names the checkpoint in the error).

        Raises:
            CheckpointError: a coordinate token is missing.
        """
        vocab = tokenizer.get_vocab()
        missing = [token for token in coord_tokens() if token not in vocab]
        if missing:
            what = f"the tokenizer has {NUM_BINS - len(missing)} of the {NUM_BINS} coordinate tokens ({missing[0]} is missing)"
            fix = "use a checkpoint with the tokens <|coord_0|> to <|coord_999|> in its vocabulary"
            if len(missing) == NUM_BINS:
                fix += ", or add them: coordexp model expand-vocab"
            raise CheckpointError(what, where=where, fix=fix)
        return cls(tuple(vocab[token] for token in coord_tokens()))

    def bin_of(self, token_id: int) -> int | None:
        """The bin of a vocabulary id; None when it is not a coordinate token."""
        return self._bins.get(token_id)

    def id_of(self, k: int) -> int:
        """The vocabulary id of bin k."""
        return self.ids[k]
