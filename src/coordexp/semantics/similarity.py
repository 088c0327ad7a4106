"""Cosine similarity of labels. Equal normalized texts have similarity 1 by definition; a label without text is similar to nothing, itself included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from coordexp.semantics.normalize import normalize_label
from coordexp.semantics.protocol import TextEncoder, Vectors
from coordexp.types.errors import BackendError
from coordexp.types.progress import NoProgress, Progress

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

UNKNOWN = "unknown"
"""A ground-truth text that names no category."""

_TEXTS_AT_ONCE = 1024
_CELLS_AT_ONCE = 4_000_000
_PAIRS_AT_ONCE = 50_000
_LENGTH_TOLERANCE = 1e-3
_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class EmbeddedLabels:
    """Labels as rows of vectors; labels are referred to by their position in what `embed_labels` was given.

    Example: of `["Wine glass", "cup", "wine_glass"]`: `texts == ("cup", "wine glass")`, `row == [1, 0, 1]`.
    """

    texts: tuple[str, ...]
    """Distinct normalized texts, sorted."""
    row: Ints
    """[N] position in `texts` of each label."""
    vectors: Vectors
    """[len(texts), D] of length 1; zero for the empty text."""

    @property
    def has_text(self) -> Bools:
        """[N]; False where nothing is left after normalization."""
        return np.array([text != "" for text in self.texts], dtype=np.bool_)[self.row]

    @property
    def is_candidate(self) -> Bools:
        """[N]; whether a label can be the category that a text is mapped to: not empty, not `unknown`."""
        return np.array([names_a_category(text) for text in self.texts], dtype=np.bool_)[self.row]


@dataclass(frozen=True, slots=True)
class NearestCategories:
    """The nearest category of each query. Example: `NearestCategories(best=[2, -1], similarity=[0.86, nan], is_mapped=[True, False])`."""

    best: Ints
    """[Q] position in the categories that were given; -1: there is no candidate, or the query has no text. Of equals the first."""
    similarity: Floats
    """[Q] cosine to `best`; NaN where that is -1."""
    is_mapped: Bools
    """[Q] whether it reaches the threshold."""


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Pairs of categories that a threshold cannot tell apart, the nearest first. Example: `NearPairs(first=[0], second=[3], similarity=[0.66], total=1)`."""

    first: Ints
    """[K] position in the categories that were given; less than `second`."""
    second: Ints
    similarity: Floats
    total: int
    """Pairs that were found; more than those kept when a limit was given."""

    def __len__(self) -> int:
        return len(self.first)


def names_a_category(text: str) -> bool:
    """Whether a normalized ground-truth text can be what another text is mapped to."""
    return text not in ("", UNKNOWN)


def embed_labels(labels: Sequence[str], *, encoder: TextEncoder, progress: Progress | None = None) -> EmbeddedLabels:
    """Normalize `labels` and encode each distinct text once. The result does not depend on their order.

    Raises:
        BackendError: the encoder cannot be loaded, or what it returns are not vectors of length 1.
    """
    normalized = [normalize_label(label) for label in labels]
    texts = sorted(set(normalized))
    number = {text: i for i, text in enumerate(texts)}
    encoded = [text for text in texts if text]
    starts = range(0, len(encoded), _TEXTS_AT_ONCE)
    shown = (progress or NoProgress()).track(starts, "encode labels", total=len(starts)) if len(starts) > 1 else starts
    parts = [encoder.encode(encoded[start : start + _TEXTS_AT_ONCE]) for start in shown] or [encoder.encode([])]
    vectors = _checked(np.concatenate(parts), encoder, count=len(encoded))
    if len(encoded) < len(texts):  # sorted: the empty text is the first
        vectors = np.concatenate([np.zeros((1, vectors.shape[1]), dtype=np.float32), vectors])
    return EmbeddedLabels(tuple(texts), np.array([number[text] for text in normalized], dtype=np.int64), vectors)


def pair_similarity(labels: EmbeddedLabels, first: Ints, second: Ints) -> Floats:
    """Cosine of the pairs (first[i], second[i]) of positions, [K] in [-1, 1]; NaN where a label has no text."""
    a, b = labels.row[first], labels.row[second]
    rows_a, at_a = _distinct(a)
    rows_b, at_b = _distinct(b)
    result = np.empty(len(a), dtype=np.float64)
    if len(rows_a) * len(rows_b) <= _CELLS_AT_ONCE:
        result[:] = (labels.vectors[rows_a] @ labels.vectors[rows_b].T)[at_a, at_b]
    else:
        for start in range(0, len(a), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            result[part] = np.einsum("kd,kd->k", labels.vectors[a[part]], labels.vectors[b[part]])
    np.clip(result, -1.0, 1.0, out=result)
    result[a == b] = 1.0
    result[~(labels.has_text[first] & labels.has_text[second])] = np.nan
    return result


def nearest_category(labels: EmbeddedLabels, queries: Ints, categories: Ints, *, threshold: float) -> NearestCategories:
    """The nearest of `categories` for each of `queries` (both positions of labels). Categories that are empty or `unknown` are no candidates."""
    best = np.full(len(queries), -1, dtype=np.int64)
    similarity = np.full(len(queries), np.nan)
    rows, position = _candidates(labels, categories)
    if len(rows):
        asked = np.flatnonzero(labels.has_text[queries])
        distinct, back = _distinct(labels.row[queries[asked]])
        column, score = _nearest_rows(labels.vectors, distinct, rows)
        best[asked], similarity[asked] = position[column][back], score[back]
    return NearestCategories(best, similarity, similarity >= threshold)


def near_duplicates(labels: EmbeddedLabels, categories: Ints, *, threshold: float, keep: int = 1000) -> NearPairs:
    """The `keep` nearest pairs of `categories` with similarity >= threshold; time grows with the square of their number, memory does not.

    Categories that are empty or `unknown` are left out; of equal normalized texts only the first takes part.
    """
    rows, position = _candidates(labels, categories)
    pairs, total = NearPairs(_NOTHING, _NOTHING, np.zeros(0), 0), 0
    step = max(1, _CELLS_AT_ONCE // max(1, len(rows)))
    for start in range(0, len(rows), step):
        block = np.clip(labels.vectors[rows[start : start + step]] @ labels.vectors[rows].T, -1.0, 1.0)
        i, j = np.nonzero(block >= threshold)
        is_above = j > i + start
        i, j = i[is_above], j[is_above]
        total += len(i)
        pairs = _nearest_of(pairs, NearPairs(position[i + start], position[j], block[i, j].astype(np.float64), total), keep=keep)
    return pairs


def _candidates(labels: EmbeddedLabels, categories: Ints) -> tuple[Ints, Ints]:
    """Distinct candidates in the order given, so that the first of equals is found: (row, position in `categories`)."""
    positions = np.flatnonzero(labels.is_candidate[categories])
    rows, first = np.unique(labels.row[categories[positions]], return_index=True)
    in_order = np.argsort(first)
    return rows[in_order], positions[first[in_order]]


def _nearest_of(known: NearPairs, more: NearPairs, *, keep: int) -> NearPairs:
    similarity = np.concatenate([known.similarity, more.similarity])
    nearest = np.argsort(-similarity, kind="stable")[:keep]
    first, second = np.concatenate([known.first, more.first]), np.concatenate([known.second, more.second])
    return NearPairs(first[nearest], second[nearest], similarity[nearest], more.total)


def _checked(vectors: Vectors, encoder: TextEncoder, *, count: int) -> Vectors:
    """A NaN would be near nothing, and nobody would notice."""
    if vectors.ndim != 2 or len(vectors) != count:
        raise BackendError(f"the text encoder returned an array of shape {vectors.shape} for {count} texts", where=encoder.name)
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.abs(lengths - 1.0) <= _LENGTH_TOLERANCE).all():
        raise BackendError("the text encoder returned vectors that do not have length 1", where=encoder.name, fix="scale each row to length 1")
    return vectors


def _distinct(rows: Ints) -> tuple[Ints, Ints]:
    """(sorted distinct rows, position of each row in them)."""
    return cast(tuple[Ints, Ints], np.unique(rows, return_inverse=True))


def _nearest_rows(vectors: Vectors, queries: Ints, rows: Ints) -> tuple[Ints, Floats]:
    """For each query row: (position of the nearest in `rows`, cosine), in blocks of bounded memory."""
    best = np.empty(len(queries), dtype=np.int64)
    score = np.empty(len(queries), dtype=np.float64)
    step = max(1, _CELLS_AT_ONCE // len(rows))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        cosine = np.clip(vectors[part] @ vectors[rows].T, -1.0, 1.0)
        cosine[part[:, None] == rows] = 1.0
        column = cosine.argmax(1)
        best[start : start + step] = column
        score[start : start + step] = cosine[np.arange(len(part)), column]
    return best, score
