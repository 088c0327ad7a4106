"""A byte-level BPE tokenizer as this package sees it: text to ids with offsets, an id to its exact bytes, bytes back to ids.

Works on a `tokenizers.Tokenizer`, or on a fast tokenizer of transformers that wraps one; imports neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias

from coordexp.types.errors import CheckpointError


class AddedTokenLike(Protocol):
    @property
    def content(self) -> str: ...
    @property
    def lstrip(self) -> bool: ...
    @property
    def rstrip(self) -> bool: ...
    @property
    def single_word(self) -> bool: ...
    @property
    def normalized(self) -> bool: ...
    @property
    def special(self) -> bool: ...


class EncodingLike(Protocol):
    @property
    def ids(self) -> list[int]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...


class BackendTokenizer(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    @property
    def truncation(self) -> Any: ...
    @property
    def padding(self) -> Any: ...
    def encode(self, sequence: Any, *, add_special_tokens: bool) -> EncodingLike: ...
    def id_to_token(self, id: int) -> str | None: ...
    def token_to_id(self, token: str) -> int | None: ...
    def get_added_tokens_decoder(self) -> Mapping[int, AddedTokenLike]: ...
    def get_vocab_size(self) -> int: ...
    def no_truncation(self) -> None: ...
    def no_padding(self) -> None: ...


class WrapsBackend(Protocol):
    """A fast tokenizer of transformers."""

    @property
    def backend_tokenizer(self) -> Any: ...


AnyTokenizer: TypeAlias = "TextTokenizer | BackendTokenizer | WrapsBackend"


@dataclass(frozen=True, slots=True)
class Tokens:
    """Text as ids; `offsets` are half-open character spans of the text that was encoded."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@cache
def byte_of_char() -> Mapping[str, int]:
    """The 256 printable characters with which byte-level BPE spells bytes (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}


@cache
def _char_of_byte() -> Mapping[int, str]:
    return {byte: char for char, byte in byte_of_char().items()}


class TextTokenizer:
    """Ids, text and bytes of one tokenizer. Build it once: it remembers the bytes of every id that it has seen.

    Example: `TextTokenizer.of(processor.tokenizer).piece(151645) == b"<|im_end|>"`
    """

    def __init__(self, backend: BackendTokenizer) -> None:
        self._backend = backend
        self._pieces: dict[int, bytes] = {token_id: token.content.encode() for token_id, token in backend.get_added_tokens_decoder().items()}

    @classmethod
    def of(cls, tokenizer: AnyTokenizer) -> TextTokenizer:
        """Wrap a tokenizer; one that is wrapped already is returned as it is.

        Raises:
            CheckpointError: the tokenizer is not a fast one.
        """
        if isinstance(tokenizer, TextTokenizer):
            return tokenizer
        backend: Any = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not hasattr(backend, "get_added_tokens_decoder"):
            what = f"{type(tokenizer).__name__} has no offsets and no byte-level pieces"
            raise CheckpointError(what, where="tokenizer", fix="load the fast tokenizer of the checkpoint (tokenizer.json)")
        return cls(backend)

    def encode(self, text: str) -> Tokens:
        """Ids and offsets of the text as it stands: nothing added, nothing cut off."""
        # a batch call of the wrapper leaves its truncation and padding behind in the shared backend; switched off only when on, since threads may share it too
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        encoding = self._backend.encode(text, add_special_tokens=False)
        return Tokens(ids=tuple(encoding.ids), offsets=tuple(encoding.offsets))

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token stands for; none for an id that the tokenizer does not know (a padded embedding row).

        Raises:
            CheckpointError: the vocabulary is not byte-level.
        """
        found = self._pieces.get(token_id)
        if found is None:
            found = self._pieces[token_id] = self._spell(token_id)
        return found

    def encode_bytes(self, kept: bytes) -> tuple[int, ...]:
        """Ids whose pieces join to exactly these bytes: the tokenizer's own choice where that is faithful, else one token for each byte.

        Raises:
            CheckpointError: a byte has no token.
        """
        try:
            ids = self.encode(kept.decode()).ids
        except UnicodeDecodeError:  # the bytes begin in the middle of a character
            ids = ()
        if kept and b"".join(self.piece(token_id) for token_id in ids) == kept:
            return ids
        return tuple(self._id_of_byte(byte) for byte in kept)

    def splits_at(self, token_ids: Sequence[int]) -> bool:
        """Are these added tokens that take nothing of the text around them, so that the texts before and after are tokenized each for itself?"""
        added = self._backend.get_added_tokens_decoder()
        tokens = [added.get(token_id) for token_id in token_ids]
        return all(token is not None and not (token.lstrip or token.rstrip or token.single_word or token.normalized) for token in tokens)

    @property
    def num_ids(self) -> int:
        """One more than the largest id, added tokens included."""
        return max((self._backend.get_vocab_size() - 1, *self._backend.get_added_tokens_decoder())) + 1

    def special_ids(self) -> frozenset[int]:
        """The tokens that stand for no text of their own: the end, placeholders, coordinates."""
        return frozenset(token_id for token_id, token in self._backend.get_added_tokens_decoder().items() if token.special)

    def pieces(self, token_ids: Sequence[int]) -> list[bytes]:
        return [self.piece(token_id) for token_id in token_ids]

    def _spell(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        try:
            return bytes(byte_of_char()[char] for char in token)
        except KeyError as error:
            what = f"token {token_id} ({token!r}) is not spelled in byte-level BPE"
            raise CheckpointError(what, where="tokenizer", fix="use a checkpoint with a byte-level BPE tokenizer, such as Qwen3-VL's") from error

    def _id_of_byte(self, byte: int) -> int:
        token_id = self._backend.token_to_id(_char_of_byte()[byte])
        if token_id is None:
            raise CheckpointError(f"byte 0x{byte:02x} has no token", where="tokenizer", fix="use a byte-level BPE tokenizer with its whole alphabet")
        return token_id
