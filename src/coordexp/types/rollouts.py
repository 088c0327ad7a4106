"""What a model wrote, and what was read from it: generation results, strict parse, salvage, match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from coordexp.types.constraint import ConstraintSpec
from coordexp.types.records import DetObject, GeometryKind


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
class RepeatLimits:
    """When a sequence counts as a loop, which ends it. Example: `RepeatLimits(min_new_tokens=32, ngram_size=16, ngram_repeats=3)`"""

    min_new_tokens: int = 256
    """Never before this length."""
    max_consecutive_token_repeats: int = 64
    """The same token this many times in a row; at least 2."""
    ngram_size: int = 64
    """The longest piece whose repetition is looked for, in tokens."""
    ngram_repeats: int = 2
    """At least 2. The last `ngram_size * ngram_repeats` tokens are one piece, of at most `ngram_size` tokens, over and over again."""
    max_object_keys: int | None = None
    """More keys `"object_N":` than this; None: no limit."""


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
    """More than 1: beam search, of which the best answer is taken; greedy only."""
    seed: int = 0
    repeat: RepeatLimits | None = None
    """The loop guard; None: off."""
    constraint: ConstraintSpec | None = None
    """Let the model write nothing but complete documents of this kind; None: whatever it likes."""


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """What the probabilities said at one generated token.

    `coord_bins`/`coord_probs` are given at coordinate tokens only: the distribution over the 1,000 bins, or, as they are, the probabilities of those bins that
    vLLM had among its most probable tokens. Bins ascend. 1,000 probabilities come as an `array` of float32: as a tuple they would take eight times the memory.
    """

    logprob: float
    coord_bins: Sequence[int] = ()
    coord_probs: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class GenerationSample:
    """One response. Example: `finish_reason` is `stop` (the model ended), `length` (cut at max_new_tokens), `repeat` (loop guard) or `abort`.

    A constrained answer is complete whatever the reason: `length` says that the limit took choices away from it, `repeat` that a loop was led to the end.
    """

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
    desc_chars: tuple[int, int]
    """Half-open character span of the desc value as it is written (escapes and all), without its quotes."""
    kind: GeometryKind
    coord_positions: tuple[int, ...]
    """One token position for each coordinate: 4 for a box, even and >= 6 for a polygon."""
    bins: tuple[int, ...]
    value_tokens: tuple[int, int]
    """Half-open token span that covers the object's `{…}`."""
    value_chars: tuple[int, int]
    """Half-open character span of the object's `{…}` in the response text."""

    def to_object(self) -> DetObject:
        """The object as a data set would hold it."""
        return DetObject(desc=self.desc, kind=self.kind, points=self.bins)


@dataclass(frozen=True, slots=True)
class ParsedEntry:
    """One `"object_N": {…}` of the prefix, whether an object was read from it or not. Spans are half-open, in characters of the prefix text.

    Example: the first entry of `{"object_12": {…}` has `index=12`, `chars=(1, …)`, `digits=(9, 11)`.
    """

    index: int | None
    """N; None when the key is no `object_N`."""
    chars: tuple[int, int]
    """From the quote that opens the key to the end of the value."""
    digits: tuple[int, int]
    """N in the key; the whole key without its quotes where no N stands at its end."""
    object_number: int | None
    """Which of `ParsedRollout.objects` was read from it; None for a dropped or ambiguous one."""


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
    entries: tuple[ParsedEntry, ...] = ()
    """Every entry of the prefix, in order of appearance: taken, dropped and ambiguous ones, those with a repeated key too."""
    num_duplicate_keys: int = 0
    """Entries of the prefix whose key an earlier entry has."""

    @property
    def entry_indices(self) -> tuple[int, ...]:
        """N of every `object_N` in the prefix, in order of appearance, repeated ones as often as they stand there."""
        return tuple(entry.index for entry in self.entries if entry.index is not None)

    @property
    def has_invalid(self) -> bool:
        """Whether something was written that is no object; the entry in which the answer merely ran out of tokens does not count."""
        return self.num_ambiguous > 0 or any(item.is_in_prefix or not self.is_truncated for item in self.dropped)


@dataclass(frozen=True, slots=True)
class Pair:
    """A prediction and the ground truth that it was matched to. Example: `Pair(pred=0, gt=2, iou=0.91)`"""

    pred: int
    gt: int
    iou: float


@dataclass(frozen=True, slots=True)
class Match:
    """One to one between predictions and ground truth, by position in their lists.

    Example: `Match(pairs=(Pair(pred=0, gt=2, iou=0.91),), missed=(0, 1), unmatched=(1,), num_gated=0)`
    """

    pairs: tuple[Pair, ...]
    """In the order of the predictions."""
    missed: tuple[int, ...]
    """Ground truth that no prediction was matched to (FN), ascending."""
    unmatched: tuple[int, ...]
    """Predictions that were matched to nothing (FP), ascending."""
    num_gated: int
    """Candidate pairs that the gate refused."""

    @property
    def iou_sum(self) -> float:
        """Over the pairs."""
        return sum(pair.iou for pair in self.pairs)


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
