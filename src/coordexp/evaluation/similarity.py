"""When a predicted label counts as near a ground-truth label: equal normalized texts, or also texts whose embeddings are near."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from coordexp.evaluation.columns import Bools, Floats, Ints
from coordexp.semantics.normalize import normalize_label
from coordexp.semantics.protocol import TextEncoder
from coordexp.semantics.similarity import (
    EmbeddedLabels,
    NearestCategories,
    NearPairs,
    embed_labels,
    names_a_category,
    near_duplicates,
    nearest_category,
    pair_similarity,
)
from coordexp.types.progress import NoProgress, Progress


class LabelSimilarity(Protocol):
    """Compares classes by their position in `LabelPlan.classes`."""

    @property
    def rule(self) -> str:
        """`exact` or `semantic`."""
        ...

    @property
    def threshold(self) -> float | None:
        """Similarity that counts as near; None when only equality does."""
        ...

    @property
    def encoder_name(self) -> str | None:
        """Who compared texts; None while nobody had to."""
        ...

    def compare(self, pred_class: Ints, gt_class: Ints) -> tuple[Floats, Bools]:
        """(similarity [K] or NaN where unknown, is near [K]) of the pairs (pred_class[i], gt_class[i])."""
        ...


@dataclass(frozen=True, slots=True)
class ExactSimilarity:
    """Equal normalized texts are near (similarity 1); of others nothing is known."""

    rule: str = "exact"
    threshold: float | None = None
    encoder_name: str | None = None

    def compare(self, pred_class: Ints, gt_class: Ints) -> tuple[Floats, Bools]:
        is_equal = pred_class == gt_class
        return np.where(is_equal, 1.0, np.nan), is_equal


class SemanticSimilarity:
    """Near: equal normalized texts, or a cosine that reaches the threshold.

    The encoder is asked at the first pair that equality does not settle, then for all classes at once, each distinct text once.
    """

    rule = "semantic"

    def __init__(self, classes: Sequence[str], *, encoder: TextEncoder, threshold: float, progress: Progress | None = None) -> None:
        """`classes`: a spelling of each class, as in `LabelPlan.classes`."""
        if not -1.0 <= threshold <= 1.0:
            raise ValueError(f"semantic_threshold={threshold}, expected a cosine")
        texts = [normalize_label(name) for name in classes]
        self.threshold = threshold
        self._classes = classes
        self._encoder = encoder
        self._progress = progress or NoProgress()
        self._embedded: EmbeddedLabels | None = None
        self._has_text = np.array([text != "" for text in texts], dtype=np.bool_)
        self._is_candidate = np.array([names_a_category(text) for text in texts], dtype=np.bool_)

    @property
    def encoder_name(self) -> str | None:
        return None if self._embedded is None else self._encoder.name

    def compare(self, pred_class: Ints, gt_class: Ints) -> tuple[Floats, Bools]:
        """Raises BackendError when an encoder is needed and there is none."""
        is_equal = pred_class == gt_class
        similarity = np.where(is_equal, 1.0, np.nan)
        asked = ~is_equal & self._has_text[pred_class] & self._has_text[gt_class]
        if asked.any():
            similarity[asked] = pair_similarity(self._vectors(), pred_class[asked], gt_class[asked])
        return similarity, is_equal | (similarity >= self.threshold)

    def nearest(self, queries: Ints, categories: Ints) -> NearestCategories:
        """The nearest of `categories` for each of `queries`, both classes. Categories that are empty or `unknown` are no candidates.

        Raises:
            BackendError: an encoder is needed and there is none.
        """
        candidates = np.flatnonzero(self._is_candidate[categories])
        first_of_class = np.full(len(self._classes), -1, dtype=np.int64)
        first_of_class[categories[candidates][::-1]] = candidates[::-1]  # reversed: the first of equals wins
        best = first_of_class[queries]
        similarity = np.where(best >= 0, 1.0, np.nan)
        asked = np.flatnonzero((best < 0) & self._has_text[queries])
        if len(asked) and len(candidates):
            found = nearest_category(self._vectors(), queries[asked], categories, threshold=self.threshold)
            best[asked], similarity[asked] = found.best, found.similarity
        return NearestCategories(best, similarity, similarity >= self.threshold)

    def near_duplicates(self, categories: Ints) -> NearPairs:
        """Pairs of `categories` (classes) that the threshold cannot tell apart. Asks the encoder."""
        return near_duplicates(self._vectors(), categories, threshold=self.threshold)

    def _vectors(self) -> EmbeddedLabels:
        if self._embedded is None:
            started = time.perf_counter()
            self._progress.say(f"equal texts do not decide: comparing {len(self._classes)} names by a text encoder")
            self._embedded = embed_labels(self._classes, encoder=self._encoder, progress=self._progress)
            self._progress.say(f"encoded by {self._encoder.name} in {time.perf_counter() - started:.2f} s")
        return self._embedded
