from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordexp.semantics.protocol import TextEncoder, Vectors
from coordexp.semantics.similarity import EmbeddedLabels, embed_labels, near_duplicates, nearest_category, pair_similarity
from coordexp.types.errors import BackendError

PARITY = Path(__file__).parents[2] / "fixtures" / "parity" / "eval"


def _recorded(case: str) -> list[Any]:
    report = json.loads((PARITY / f"{case}.json").read_text())["files"]["semantic_desc_report.json"]
    return [pytest.param(report["semantic_threshold"], row, id=f"{case}-{row['pred_desc']}") for row in report["rows"]]


def _at(*positions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(positions, dtype=np.int64)


def _toy(texts: list[str], vectors: list[list[float]]) -> EmbeddedLabels:
    array = np.array(vectors, dtype=np.float32)
    return EmbeddedLabels(tuple(texts), np.arange(len(texts)), array / np.linalg.norm(array, axis=1, keepdims=True))


@pytest.mark.parametrize(("threshold", "row"), [*_recorded("semantic_map"), *_recorded("lvis_desc"), *_recorded("f1_scope_all")])
def test_the_recorded_mappings_are_found_again(encoder: TextEncoder, threshold: float, row: dict[str, Any]) -> None:
    labels = embed_labels([row["pred_desc"], row["best_gt_desc"]], encoder=encoder)
    nearest = nearest_category(labels, _at(0), _at(1), threshold=threshold)
    assert nearest.similarity[0] == pytest.approx(row["score"], abs=1e-6)
    assert bool(nearest.is_mapped[0]) is row["mapped"]


def test_of_several_categories_the_nearest_is_taken(encoder: TextEncoder) -> None:
    labels = embed_labels(["sofa", "television", "spaceship", "couch", "tv"], encoder=encoder)
    nearest = nearest_category(labels, _at(0, 1, 2), _at(4, 3), threshold=0.6)
    assert nearest.best.tolist() == [1, 0, 1]
    assert nearest.is_mapped.tolist() == [True, True, False]


def test_equal_normalized_texts_have_similarity_one_exactly(encoder: TextEncoder) -> None:
    labels = embed_labels(["Couch", "couch_", "couch"], encoder=encoder)
    assert labels.texts == ("couch",)
    assert pair_similarity(labels, _at(0, 1), _at(2, 2)).tolist() == [1.0, 1.0]
    assert nearest_category(labels, _at(0, 1), _at(2), threshold=1.0).is_mapped.all()


def test_an_empty_label_is_near_nothing_and_no_candidate(encoder: TextEncoder) -> None:
    labels = embed_labels(["", "_", "dog", "unknown"], encoder=encoder)
    assert np.isnan(pair_similarity(labels, _at(0, 0, 2), _at(1, 2, 1))).all()
    nearest = nearest_category(labels, _at(0, 2), _at(1, 3), threshold=-1.0)
    assert nearest.best.tolist() == [-1, -1]
    assert np.isnan(nearest.similarity).all()
    assert not nearest.is_mapped.any()


def test_a_predicted_unknown_is_compared_like_any_text(encoder: TextEncoder) -> None:
    labels = embed_labels(["unknown", "dog"], encoder=encoder)
    assert nearest_category(labels, _at(0), _at(1), threshold=0.6).best.tolist() == [0]


def test_of_equal_categories_the_first_given_is_the_nearest(encoder: TextEncoder) -> None:
    labels = embed_labels(["CAT", "dog", "cat_", "Cat"], encoder=encoder)
    assert nearest_category(labels, _at(0), _at(1, 3, 2), threshold=0.6).best.tolist() == [1]


def test_embedding_does_not_depend_on_the_order_of_labels(encoder: TextEncoder) -> None:
    names = ["traffic light", "dog", "person", "stop sign", "dog", "zebra"]
    forward, backward = embed_labels(names, encoder=encoder), embed_labels(names[::-1], encoder=encoder)
    assert forward.texts == backward.texts
    assert np.array_equal(forward.vectors, backward.vectors)
    assert forward.row.tolist() == backward.row[::-1].tolist()


def test_categories_that_the_threshold_cannot_tell_apart_are_listed_nearest_first(encoder: TextEncoder) -> None:
    categories = ["person", "cat", "car", "dog", "truck", "unknown", "Cat"]
    pairs = near_duplicates(embed_labels(categories, encoder=encoder), np.arange(7), threshold=0.6)
    found = [(categories[i], categories[j]) for i, j in zip(pairs.first, pairs.second, strict=True)]
    assert sorted(found) == [("car", "truck"), ("cat", "dog")]
    assert np.all(np.diff(pairs.similarity) <= 0)
    assert len(near_duplicates(embed_labels(["cat", "car"], encoder=encoder), np.arange(2), threshold=0.6)) == 0


def test_no_labels_at_all_is_an_answer_too(encoder: TextEncoder) -> None:
    labels = embed_labels([], encoder=encoder)
    assert labels.vectors.shape == (0, 384)
    assert nearest_category(labels, _at(), _at(), threshold=0.6).best.tolist() == []
    assert len(near_duplicates(labels, _at(), threshold=0.6)) == 0
    assert pair_similarity(labels, _at(), _at()).tolist() == []


def test_blocks_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    labels = _toy([f"t{i:02d}" for i in range(40)], generator.normal(size=(40, 8)).tolist())
    first, second, every = generator.integers(0, 40, 300), generator.integers(0, 40, 300), np.arange(40)
    pairs, nearest, near = (
        pair_similarity(labels, first, second),
        nearest_category(labels, every[:20], every[20:], threshold=0.5),
        near_duplicates(labels, every, threshold=0.5),
    )
    monkeypatch.setattr("coordexp.semantics.similarity._CELLS_AT_ONCE", 50)
    monkeypatch.setattr("coordexp.semantics.similarity._PAIRS_AT_ONCE", 7)
    np.testing.assert_allclose(pair_similarity(labels, first, second), pairs, atol=1e-6)
    assert np.array_equal(nearest_category(labels, every[:20], every[20:], threshold=0.5).best, nearest.best)
    again = near_duplicates(labels, every, threshold=0.5)
    assert sorted(zip(again.first, again.second, strict=True)) == sorted(zip(near.first, near.second, strict=True))
    assert len(near) > 5


def test_of_many_near_pairs_the_nearest_are_kept_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 4)).tolist()
    labels, every = _toy([f"t{i:02d}" for i in range(30)], vectors), np.arange(30)
    monkeypatch.setattr("coordexp.semantics.similarity._CELLS_AT_ONCE", 60)
    near, few = near_duplicates(labels, every, threshold=0.0), near_duplicates(labels, every, threshold=0.0, keep=5)
    assert near.total == few.total == len(near)
    np.testing.assert_allclose(few.similarity, near.similarity[:5], atol=1e-6)
    assert len(few) == 5


class _BrokenEncoder:
    """Answers every question with the same array."""

    name = "broken@0"

    def __init__(self, answer: list[list[float]]) -> None:
        self._answer = np.array(answer, dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> Vectors:
        return self._answer


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        pytest.param([[1.0, 0.0]], r"broken@0: the text encoder returned an array of shape \(1, 2\) for 2 texts", id="a row is missing"),
        pytest.param([[1.0, 0.0], [float("nan"), 0.0]], "broken@0: the text encoder returned vectors that do not have length 1", id="a NaN"),
        pytest.param([[1.0, 0.0], [3.0, 4.0]], "scale each row to length 1", id="not normalized"),
    ],
)
def test_vectors_that_are_no_embeddings_are_refused(answer: list[list[float]], sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        embed_labels(["cat", "dog"], encoder=_BrokenEncoder(answer))
