"""`coordexp eval` from configuration to folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.config.evaluation import EvalConfig
from coordexp.recipes.evaluate import run_evaluation
from coordexp.recipes.rules import evaluation_settings
from coordexp.types.errors import BackendError, DataError


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    """Three images with 0, 2 and 1 errors."""
    cat = {"type": "bbox_2d", "points": [5, 5, 25, 25], "desc": "cat"}
    lines = []
    for index, pred in enumerate(([cat], [{**cat, "desc": "dog"}], [])):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "width": 60, "height": 40, "coord_mode": "pixel", "gt": [cat], "pred": pred}))
    path = tmp_path / "gt_vs_pred.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _run(predictions: Path, **settings: Any) -> Path:
    out = predictions.parent / "eval"
    run_evaluation(EvalConfig(pred_jsonl=predictions, out_dir=out, **settings))
    return out


@pytest.mark.parametrize(("metrics", "families"), [("coco", {"f1_det", "bbox"}), ("f1ish", {"f1_det", "f1ish"}), ("both", {"f1_det", "bbox", "f1ish"})])
def test_f1_det_is_always_there_and_metrics_chooses_the_rest(predictions: Path, metrics: str, families: set[str]) -> None:
    keys = json.loads((_run(predictions, metrics=metrics) / "metrics.json").read_text())["metrics"]
    assert {family for family in ("f1_det", "bbox", "f1ish") if any(key.startswith(family) for key in keys)} == families


@pytest.mark.parametrize(("count", "drawn"), [(0, []), (1, ["vis_0000.png"]), (12, ["vis_0000.png", "vis_0001.png"])])
def test_overlays_show_the_images_with_most_errors(predictions: Path, count: int, drawn: list[str]) -> None:
    out = _run(predictions, overlay=True, overlay_k=count)
    assert sorted(path.name for path in out.glob("overlays/*")) == drawn


def test_results_in_the_folder_of_the_predictions_leave_them_alone(predictions: Path) -> None:
    text = predictions.read_text()
    run_evaluation(EvalConfig(pred_jsonl=predictions, out_dir=predictions.parent))
    assert predictions.read_text() == text
    assert (predictions.parent / "metrics.json").exists()


def test_every_setting_reaches_the_evaluator() -> None:
    section = EvalConfig(
        pred_jsonl=Path("a"), out_dir=Path("b"), pixel_mode="exact", score_mode="constant", no_segm=True, iou_thrs=(0.4,), strict_parse=True,
        f1ish_iou_thrs=(0.6,), f1ish_pred_scope="all",
    )  # fmt: skip
    settings = evaluation_settings(section, prompt="gt")
    assert (settings.pixel_mode, settings.score_mode, settings.with_segm, settings.iou_thrs, settings.strict_parse) == (
        "exact",
        "constant",
        False,
        (0.4,),
        True,
    )
    assert (settings.f1ish_iou_thrs, settings.f1ish_pred_scope, settings.prompt) == ((0.6,), "all", "gt")


def test_predictions_that_are_not_there_are_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no gt_vs_pred\.jsonl"):
        run_evaluation(EvalConfig(pred_jsonl=tmp_path / "none.jsonl", out_dir=tmp_path / "eval"))
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_made_is_refused_before_the_work(predictions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(BackendError, match=r"report: jinja2 is not installed; pip install 'coordexp\[report\]'"):
        _run(predictions, report=True, score_mode="model")  # which the evaluation would refuse
    assert not (predictions.parent / "eval").exists()
