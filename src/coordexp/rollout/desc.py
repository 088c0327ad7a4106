"""Do two names mean the same? For the desc monitor, and for the gate that lets matched names be taught.

The text encoder is optional: without one, names agree when their normalized texts are equal, and every count says that it was off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordexp.semantics.normalize import normalize_label
from coordexp.semantics.protocol import TextEncoder
from coordexp.semantics.similarity import embed_labels, pair_similarity

NamePair = tuple[str, str]
"""(predicted, annotated)"""

_MOST_KNOWN = 200_000
"""Models write any text: what is remembered must not grow with the training."""


@dataclass(frozen=True, slots=True)
class NameCounts:
    """The names of matched pairs, compared. Example: `NameCounts(num_pairs=3, num_equal=1)`"""

    num_pairs: int = 0
    num_equal: int = 0
    """Equal when normalized."""
    has_encoder: bool = False
    num_alike: int = 0
    """Equal, or with a cosine of at least the threshold."""
    similarity_sum: float = 0.0
    num_similarities: int = 0
    """Pairs with a cosine: both names have a text."""

    def __add__(self, other: NameCounts) -> NameCounts:
        return NameCounts(
            num_pairs=self.num_pairs + other.num_pairs,
            num_equal=self.num_equal + other.num_equal,
            has_encoder=other.has_encoder,
            num_alike=self.num_alike + other.num_alike,
            similarity_sum=self.similarity_sum + other.similarity_sum,
            num_similarities=self.num_similarities + other.num_similarities,
        )


class DescJudge:
    """Compares names, and remembers the pairs that it has compared.

    Example: `DescJudge(LazyEncoder(), threshold=0.6).agree([("a kitten", "cat")]) == [True]`
    """

    def __init__(self, encoder: TextEncoder | None, *, threshold: float) -> None:
        """encoder: None: only equal texts agree. threshold: cosine from which on names agree."""
        self._encoder, self._threshold = encoder, threshold
        self._known: dict[NamePair, float | None] = {}

    @property
    def is_active(self) -> bool:
        """Meaning counts, not only the text."""
        return self._encoder is not None

    def agree(self, pairs: Sequence[NamePair]) -> list[bool]:
        """Which pairs mean the same."""
        normalized = [(normalize_label(said), normalize_label(annotated)) for said, annotated in pairs]
        cosines = self._cosines(normalized)
        return [said == annotated or (cosine is not None and cosine >= self._threshold) for (said, annotated), cosine in zip(normalized, cosines, strict=True)]

    def count(self, pairs: Sequence[NamePair]) -> NameCounts:
        """All pairs of a batch."""
        normalized = [(normalize_label(said), normalize_label(annotated)) for said, annotated in pairs]
        num_equal = sum(said == annotated for said, annotated in normalized)
        if not self.is_active:
            return NameCounts(num_pairs=len(pairs), num_equal=num_equal)
        cosines = [cosine for cosine in self._cosines(normalized) if cosine is not None]
        return NameCounts(
            num_pairs=len(pairs),
            num_equal=num_equal,
            has_encoder=True,
            num_alike=sum(self.agree(pairs)),
            similarity_sum=float(sum(cosines)),
            num_similarities=len(cosines),
        )

    def _cosines(self, pairs: Sequence[NamePair]) -> list[float | None]:
        """Of normalized names; None where one has no text, or without an encoder."""
        if self._encoder is None:
            return [None] * len(pairs)
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._known))
        if new:
            if len(self._known) + len(new) > _MOST_KNOWN:
                self._known.clear()
                new = list(dict.fromkeys(pairs))
            labels = embed_labels([name for pair in new for name in pair], encoder=self._encoder)
            first = np.arange(0, 2 * len(new), 2)
            for pair, cosine in zip(new, pair_similarity(labels, first, first + 1).tolist(), strict=True):
                self._known[pair] = None if np.isnan(cosine) else cosine
        return [self._known[pair] for pair in pairs]
