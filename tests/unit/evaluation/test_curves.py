"""Precision over recall: the arrays of COCOeval, as they are."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.evaluate import EvalSettings, evaluate


def _pycocotools_precision(folder: Path) -> np.ndarray:
    """[T, R, K] of the saved files, all areas, 100 predictions."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "coco_gt.json"))
        evaluator = COCOeval(truth, truth.loadRes(str(folder / "coco_preds.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, 2]


def test_curves_equal_those_of_pycocotools(make_scenes: Any, tmp_path: Path) -> None:
    result = evaluate(make_scenes(50, seed=1, crowd=1))
    result.save(tmp_path)
    expected = _pycocotools_precision(tmp_path)
    assert [curve.iou for curve in result.analysis.curves] == [0.5, 0.75]
    for curve, threshold in zip(result.analysis.curves, (0, 5), strict=True):
        assert curve.recall == pytest.approx(np.linspace(0, 1, 101))
        assert np.array_equal(curve.by_category, expected[threshold].T)


def test_the_mean_of_the_mean_curve_is_ap(make_scenes: Any) -> None:
    result = evaluate(make_scenes(50, seed=2))
    for curve, key in zip(result.analysis.curves, ("bbox_AP50", "bbox_AP75"), strict=True):
        assert curve.mean.mean() == pytest.approx(result.metrics[key], abs=1e-12)
        assert (np.diff(curve.mean) <= 1e-12).all()


@pytest.mark.parametrize(
    ("settings", "ious"),
    [(EvalSettings(iou_thrs=(0.3, 0.75)), [0.75]), (EvalSettings(with_coco=False), []), (EvalSettings(score_mode="constant"), [])],
    ids=["one of the thresholds", "no average precision", "no ranking"],
)
def test_there_is_a_curve_only_where_its_precision_was_computed(make_scenes: Any, settings: EvalSettings, ious: list[float]) -> None:
    analysis = evaluate(make_scenes(20, seed=3), settings=settings).analysis
    assert [curve.iou for curve in analysis.curves] == ious
    assert analysis.absent


def test_the_csv_has_a_row_for_each_category_and_iou(make_scenes: Any, tmp_path: Path) -> None:
    result = evaluate(make_scenes(30, seed=4))
    result.save(tmp_path)
    header, *rows = csv.reader((tmp_path / "pr_curves.csv").read_text().splitlines())
    assert (header[:3], header[-1], len(header)) == (["category", "iou", "p@0.00"], "p@1.00", 103)
    assert [row[:2] for row in rows] == [[name, iou] for iou in ("0.50", "0.75") for name in result.labels.categories]
    assert [float(value) for value in rows[0][2:]] == pytest.approx(result.analysis.curves[0].by_category[0].tolist(), abs=1e-6)
