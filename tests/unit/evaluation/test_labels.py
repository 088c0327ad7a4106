"""The semantic label rule: which category an unknown name goes to, what counts as near in f1ish, and when the encoder is asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.ingest import ingest_records
from coordexp.evaluation.labels import apply_label_rule
from coordexp.evaluation.result import EvaluationResult
from coordexp.semantics.encoder import LazyEncoder
from coordexp.semantics.protocol import Vectors
from coordexp.types.errors import BackendError

Record = dict[str, Any]
PLANE = {"cat": 0, "kitten": 30, "dog": 60, "puppy": 60, "car": 180, "unknown": 35, "thing": 36}
"""Degrees: the cosine of two names is that of the angle between them."""


class PlaneEncoder:
    """Names as directions in a plane; remembers what it was asked."""

    name = "plane@1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        angles = np.radians([PLANE[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _objects(*names: str, apart: bool = False) -> list[Record]:
    """Boxes side by side; `apart`: where those of the other side are not."""
    return [{"bbox_2d": [11 * place, 40 * apart, 11 * place + 10, 40 * apart + 10], "desc": name} for place, name in enumerate(names)]


def _evaluate(record: Any, gt: Sequence[str], pred: Sequence[str], *, encoder: Any, apart: bool = False, **settings: Any) -> EvaluationResult:
    return evaluate([record(_objects(*gt), _objects(*pred, apart=apart))], settings=EvalSettings(**settings), encoder=encoder)


@pytest.mark.parametrize(
    ("gt", "pred", "threshold", "categories"),
    [
        pytest.param(["cat", "dog"], ["kitten"], 0.6, [1], id="to the nearest category"),
        pytest.param(["car", "puppy", "dog"], ["kitten", "kitten"], 0.6, [2, 2], id="of equally near ones to the first seen"),
        pytest.param(["cat", "car"], ["dog"], 0.6, [0], id="dropped below the threshold"),
        pytest.param(["cat"], ["dog"], 0.5, [1], id="mapped at the threshold"),
        pytest.param(["cat"], ["dog", "car"], 0.0, [1, 0], id="a threshold of 0 is 0"),
        pytest.param(["unknown", "cat"], ["thing"], 0.6, [2], id="not to unknown, though it is nearer"),
        pytest.param(["", "cat"], ["_"], 0.6, [0], id="a name without letters is dropped"),
        pytest.param(["unknown"], ["unknown", "Unknown"], 0.6, [1, 0], id="literally unknown is a category, and not one to map to"),
        pytest.param(["Cat", "cat"], ["CAT"], 1.0, [1], id="equal normalized texts have similarity 1"),
        pytest.param(["cat"], ["cat", "kitten"], 0.9, [1, 0], id="a category stays itself"),
    ],
)
def test_an_unknown_name_is_mapped_or_dropped(record: Any, gt: list[str], pred: list[str], threshold: float, categories: list[int]) -> None:
    data = ingest_records([record(_objects(*gt), _objects(*pred))])
    outcome = apply_label_rule(data, encoder=PlaneEncoder(), threshold=threshold)
    assert outcome.plan.pred_category.tolist() == categories


def test_counters_say_what_became_of_unknown_names(record: Any) -> None:
    counters = _evaluate(record, ["cat"], ["cat", "Cat", "kitten", "kitten", "car", "car"], encoder=PlaneEncoder()).counters
    assert (counters["semantic_mapped"], counters["semantic_unmapped"], counters["unknown_dropped"], counters["unknown_desc"]) == (3, 2, 2, 0)


def test_the_exact_rule_maps_nothing(record: Any) -> None:
    result = _evaluate(record, ["cat"], ["Cat", "kitten"], encoder=None)
    assert result.labels.pred_category.tolist() == [1, 0]
    assert (result.counters["semantic_mapped"], result.counters["semantic_unmapped"], result.counters["unknown_dropped"]) == (0, 0, 1)


def test_f1_det_is_the_same_whatever_the_label_rule(make_scenes: Any) -> None:
    records = make_scenes(30, seed=3)
    exact, semantic = evaluate(records), evaluate(records, encoder=LazyEncoder())
    assert semantic.protocol.label_encoder is not None
    assert {key: value for key, value in semantic.metrics.items() if key.startswith("f1_det")} == {
        key: value for key, value in exact.metrics.items() if key.startswith("f1_det")
    }
    assert semantic.metrics["f1ish@0.50_matched_sem_bad"] < exact.metrics["f1ish@0.50_matched_sem_bad"]


@pytest.mark.parametrize(
    ("gt", "pred", "threshold", "is_right", "similarity"),
    [
        pytest.param("cat", "kitten", 0.6, True, np.cos(np.radians(30)), id="near"),
        pytest.param("cat", "dog", 0.6, False, 0.5, id="not near"),
        pytest.param("cat", "dog", 0.5, True, 0.5, id="at the threshold"),
        pytest.param("cat", "dog", 0.0, True, 0.5, id="a threshold of 0 is 0"),
        pytest.param("cat", "CAT", 1.0, True, 1.0, id="equal normalized texts"),
        pytest.param("cat", "_", 0.0, False, None, id="a name without letters is near nothing"),
        pytest.param("", "_", 0.6, True, 1.0, id="two names without letters are equal"),
    ],
)
def test_a_match_is_right_when_its_names_are_near(record: Any, gt: str, pred: str, threshold: float, is_right: bool, similarity: float | None) -> None:
    found = _evaluate(record, [gt], [pred], encoder=PlaneEncoder(), f1ish_pred_scope="all", semantic_threshold=threshold).f1ish
    assert found is not None
    level = found.levels[0.5]
    assert level.is_near.tolist() == [is_right]
    assert level.similarity.tolist() == pytest.approx([np.nan if similarity is None else similarity], nan_ok=True)


def test_a_prediction_near_a_name_of_its_image_is_evaluated(record: Any) -> None:
    metrics = _evaluate(record, ["cat"], ["kitten", "car"], encoder=PlaneEncoder(), apart=True).metrics
    assert (metrics["f1ish@0.50_pred_eval"], metrics["f1ish@0.50_pred_ignored"]) == (1, 1)


def test_each_text_is_encoded_once(record: Any) -> None:
    encoder = PlaneEncoder()
    records = [record(_objects("cat", "Cat"), _objects("kitten", "dog")), record(_objects("dog"), _objects("KITTEN", "car"))]
    evaluate(records, encoder=encoder)
    assert sorted(encoder.asked) == ["car", "cat", "dog", "kitten"]


NOT_NEEDED = [
    pytest.param(["cat", "dog"], ["cat", "dog"], {}, id="known names in their places"),
    pytest.param(["cat", "dog"], ["dog", "cat"], {"with_f1ish": False}, id="known names in wrong places, COCO alone"),
    pytest.param(["wine_glass"], ["Wine Glass"], {}, id="equal normalized texts"),
    pytest.param(["cat"], ["_"], {"f1ish_pred_scope": "all"}, id="a name without letters"),
    pytest.param([], ["dog"], {}, id="no category at all"),
    pytest.param(["unknown"], ["thing"], {"with_f1ish": False}, id="no category to map to"),
    pytest.param(["cat"], [], {}, id="no predictions"),
]
NEEDED = [
    pytest.param(["cat"], ["kitten"], {"with_f1ish": False}, id="an unknown name for COCO"),
    pytest.param(["cat", "dog"], ["dog"], {"with_coco": False, "f1ish_pred_scope": "all"}, id="a match of two categories"),
]


@pytest.mark.parametrize(("gt", "pred", "settings"), NOT_NEEDED)
def test_without_a_need_no_encoder_is_looked_for(record: Any, gt: list[str], pred: list[str], settings: dict[str, Any]) -> None:
    result = _evaluate(record, gt, pred, encoder=LazyEncoder("nowhere"), **settings)
    assert (result.protocol.label_rule, result.protocol.label_encoder, result.warnings) == ("semantic", None, ())


@pytest.mark.parametrize(("gt", "pred", "settings"), NEEDED)
def test_a_missing_encoder_that_is_needed_is_an_error(record: Any, gt: list[str], pred: list[str], settings: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match=r"the text encoder 'nowhere' is not on this machine.*pip install 'coordexp\[semantic\]'.*--label-match exact"):
        _evaluate(record, gt, pred, encoder=LazyEncoder("nowhere"), **settings)


def test_a_name_of_another_image_asks_the_encoder_and_one_of_its_own_does_not(record: Any) -> None:
    records = [record(_objects("cat", "dog"), _objects("dog", apart=True)), record(_objects("cat"), _objects("cat"))]
    assert evaluate(records, encoder=LazyEncoder("nowhere")).protocol.label_encoder is None
    records[1]["pred"] = _objects("dog", apart=True)
    assert evaluate(records, encoder=PlaneEncoder()).protocol.label_encoder == "plane@1"


def test_an_installation_without_the_extra_evaluates_what_needs_no_encoder(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tokenizers", "safetensors", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    assert _evaluate(record, ["cat"], ["Cat"], encoder=LazyEncoder()).metrics["bbox_AP50"] == pytest.approx(1.0)
    with pytest.raises(
        BackendError, match=r"a text encoder needs tokenizers and safetensors; pip install 'coordexp\[semantic\]', or choose --label-match exact"
    ):
        _evaluate(record, ["cat"], ["kitten"], encoder=LazyEncoder())


@pytest.mark.parametrize("threshold", [float("nan"), 1.5, -2.0])
def test_a_threshold_that_is_no_cosine_is_refused(record: Any, threshold: float) -> None:
    with pytest.raises(ValueError, match="expected a cosine"):
        _evaluate(record, ["cat"], ["cat"], encoder=PlaneEncoder(), semantic_threshold=threshold)


def test_the_protocol_names_the_rule_and_the_encoder_that_was_used(record: Any) -> None:
    used, unused = (_evaluate(record, ["cat"], [name], encoder=PlaneEncoder(), semantic_threshold=0.7).protocol for name in ("kitten", "cat"))
    assert "labels=semantic>=0.7" in used.label
    assert used.as_dict()["label_encoder"] == "plane@1"
    assert unused.as_dict()["label_encoder"] is None


def test_two_encoders_differ_and_an_encoder_that_was_not_needed_does_not(record: Any) -> None:
    class OtherPlane(PlaneEncoder):
        name = "plane@2"

    protocols = [_evaluate(record, ["cat"], [name], encoder=encoder).protocol for name, encoder in (("dog", PlaneEncoder()), ("dog", OtherPlane()))]
    assert protocols[0].differences(protocols[1]) == ("label_encoder: plane@1, plane@2",)
    assert protocols[0].differences(_evaluate(record, ["cat"], ["cat"], encoder=PlaneEncoder()).protocol) == ()
