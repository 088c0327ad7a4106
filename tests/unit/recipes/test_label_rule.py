"""From the settings of an evaluation to its label rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.config.evaluation import SENTENCE_ENCODER, EvalConfig
from coordexp.recipes.evaluate import run_evaluation
from coordexp.recipes.rules import label_encoder
from coordexp.semantics.lookup import DEFAULT_ENCODER
from coordexp.types.errors import BackendError


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """A sofa that the ground truth calls a couch."""
    box = {"type": "bbox_2d", "points": [5, 5, 25, 25]}
    path = tmp_path / "gt_vs_pred.jsonl"
    path.write_text(json.dumps({"image": "a.png", "width": 60, "height": 40, "gt": [box | {"desc": "couch"}], "pred": [box | {"desc": "sofa"}]}))
    return path


def _metrics(predictions: Path, **settings: Any) -> dict[str, Any]:
    run_evaluation(EvalConfig(pred_jsonl=predictions, out_dir=predictions.parent / "eval", **settings))
    return json.loads((predictions.parent / "eval/metrics.json").read_text())


@pytest.mark.parametrize(
    ("settings", "mapped", "rule"),
    [
        pytest.param({}, 1, ("semantic", 0.6), id="semantic by default"),
        pytest.param({"semantic_threshold": 0.9}, 0, ("semantic", 0.9), id="the threshold arrives"),
        pytest.param({"semantic_threshold": 0}, 1, ("semantic", 0.0), id="a threshold of 0 is 0"),
        pytest.param({"label_match": "exact", "semantic_model": "nowhere"}, 0, ("exact", None), id="exact needs no encoder"),
    ],
)
def test_the_label_rule_is_the_one_that_was_asked_for(predictions: Path, settings: dict[str, Any], mapped: int, rule: tuple[str, float | None]) -> None:
    summary = _metrics(predictions, **settings)
    assert summary["counters"]["semantic_mapped"] == mapped
    assert (summary["protocol"]["label_rule"], summary["protocol"]["label_threshold"]) == rule
    assert (summary["protocol"]["label_encoder"] or "").startswith(f"{DEFAULT_ENCODER}@") is (rule[0] == "semantic")


def test_a_missing_encoder_leaves_no_results(predictions: Path) -> None:
    with pytest.raises(BackendError, match="choose --label-match exact"):
        _metrics(predictions, semantic_model="nowhere")
    assert not (predictions.parent / "eval").exists()


def test_settings_of_the_encoder_reach_it() -> None:
    settings = {"semantic_model": "here", "semantic_device": "cuda:0", "semantic_batch_size": 7}
    encoder = label_encoder(EvalConfig(pred_jsonl=Path("a"), out_dir=Path("b"), **settings))
    assert encoder is not None
    assert (encoder.asked_for, encoder.device, encoder.batch_size) == ("here", "cuda:0", 7)


def test_the_default_of_the_configuration_is_the_default_of_the_encoder() -> None:
    assert SENTENCE_ENCODER == DEFAULT_ENCODER
