"""What a model wrote, and what was read from it: generation results, strict parse, salvage, match."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from coordexp.types.records import GeometryKind


class DropReason(StrEnum):
    """Why the strict parse did not take an object. The values are public metric keys."""

    MISSING_DESC = "missing_desc"
    MISSING_GEOM = "missing_geom"
    WRONG_ARITY = "wrong_arity"
    NON_COORD_TOKEN = "non_coord_token"
    POLY_UNSUPPORTED = "poly_unsupported"
    UNKNOWN_GEOM = "unknown_geom"
    BBOX_INVALID = "bbox_invalid"
    KEY_INVALID = "key_invalid"


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How to generate. Example: `GenerationSettings(max_new_tokens=512, temperature=0.0, seed=42)`"""

    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = -1
    """-1: all."""
    repetition_penalty: float = 1.0
    num_beams: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """What the probabilities said at one generated token.

    `coord_bins`/`coord_probs` are given at coordinate tokens only: the distribution over the 1,000 bins (all of it, or the top K that a server returned).
    """

    logprob: float
    coord_bins: tuple[int, ...] = ()
    coord_probs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationSample:
    """One response. Example: `finish_reason` is `stop` (the model ended), `length` (cut at max_new_tokens), `repeat` (loop guard) or `abort`."""

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    """Cut at the stop token, which is not included."""
    text: str
    """The response decoded with special tokens kept."""
    finish_reason: str
    seed: int
    trace: tuple[TokenTrace, ...] | None = None
    """One entry for each response token, or None when the backend gives no probabilities."""
    policy_version: int = 0


@dataclass(frozen=True, slots=True)
class ParsedObject:
    """An object that the strict parse took. Token positions count from the first response token."""

    key: str
    index: int
    """N of `object_N`."""
    desc: str
    desc_tokens: tuple[int, int]
    """Half-open token span that covers the desc value without its quotes."""
    kind: GeometryKind
    coord_positions: tuple[int, ...]
    """One token position for each coordinate: 4 for a box, even and >= 6 for a polygon."""
    bins: tuple[int, ...]
    value_tokens: tuple[int, int]
    """Half-open token span that covers the object's `{…}`."""
    value_chars: tuple[int, int]
    """Half-open character span of the object's `{…}` in the response text."""


@dataclass(frozen=True, slots=True)
class DroppedObject:
    """An entry that was seen but not taken."""

    key: str
    index: int | None
    reason: DropReason
    value_tokens: tuple[int, int]
    value_chars: tuple[int, int]
    is_in_prefix: bool = True
    """False for the object in which the text broke off: it lies behind the cut."""


@dataclass(frozen=True, slots=True)
class ParsedRollout:
    """Strict parse of one response. Nothing before the cut is changed; only `prefix_ids[-1]` may be a re-tokenization when the cut fell inside a token."""

    objects: tuple[ParsedObject, ...]
    """In order of appearance; all of them lie inside the prefix."""
    dropped: tuple[DroppedObject, ...]
    num_ambiguous: int
    """Objects whose coordinates could not be aligned with tokens one to one."""
    prefix_ids: tuple[int, ...]
    prefix_text: str
    """Everything up to the last complete object; `{` when there is none."""
    prefix_ends_with_object: bool
    """An entry stands before the cut, so that the next one needs a comma."""
    max_index: int
    """Largest object index in the kept prefix, dropped ones included, absurd ones (more than 100 beyond the number of entries) not; 0 when there is none."""
    is_truncated: bool
    is_invalid: bool
    """No `{`, or no append-ready prefix: the prefix is `{` and all ground truth counts as missed."""
    num_retokenized: int = 0
    """Tokens at the end of `prefix_ids` that replace the one the cut fell into; 0 when the cut fell between tokens."""
    entry_indices: tuple[int, ...] = ()
    """N of every `object_N` in the prefix, in order of appearance: taken, dropped and ambiguous ones, repeated ones as often as they stand there."""
    num_duplicate_keys: int = 0
    """Entries of the prefix whose key an earlier entry has."""


@dataclass(frozen=True, slots=True)
class SalvagedObject:
    """An object read for inference from a possibly truncated or dirty text."""

    desc: str
    kind: GeometryKind
    values: tuple[float, ...]
    """Coordinates as written: bins for tokens, the number itself otherwise."""
    is_tokens: bool
    """True when at least one coordinate was a coordinate token."""
    char_span: tuple[int, int]
    """Half-open span of the object's `{…}` in the text."""
    desc_chars: tuple[int, int]
    coord_chars: tuple[tuple[int, int], ...]
    """One span for each coordinate, in order."""


@dataclass(frozen=True, slots=True)
class SalvagedText:
    """What inference could read. `broken` counts entries that could not be used, by reason (for example `line_geometry`, `wrong_arity`)."""

    objects: tuple[SalvagedObject, ...]
    broken: tuple[tuple[str, int], ...]
    is_truncated: bool
