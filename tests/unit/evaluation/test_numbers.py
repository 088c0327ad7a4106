"""The numbers: equal to pycocotools' to the last bit, right on small cases, and unchanged by what must not matter."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.coco import SUMMARY_KEYS
from coordexp.evaluation.coco_artifacts import annotation_rows, result_rows
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.ingest import ingest_records
from coordexp.evaluation.overlaps import find_overlaps
from coordexp.evaluation.result import EvaluationResult
from coordexp.types.errors import DataError

CAT = {"bbox_2d": [10, 10, 50, 50], "desc": "cat"}


def _builtins(portions: Iterable[Any]) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(row) for rows in portions for row in rows]


def _pycocotools(result: EvaluationResult, iou_type: str, iou_thrs: tuple[float, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(12 summary numbers, AP by category), from the artifacts that are saved."""
    truth = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {
            "images": [{"id": image.image_id, "width": image.width, "height": image.height} for image in result.data.images],
            "categories": [{"id": number, "name": name} for number, name in enumerate(result.labels.categories, start=1)],
            "annotations": _builtins(annotation_rows(result.data, result.labels)),
        }
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(_builtins(result_rows(result.data, result.labels, result.scores.scores, with_segm=True))), iou_type)
        if iou_thrs:
            evaluator.params.iouThrs = np.array(iou_thrs)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    by_category = [precision[:, :, k] for k in range(precision.shape[2])]
    return evaluator.stats, np.array([values[values > -1].mean() if (values > -1).any() else -1.0 for values in by_category])


@pytest.mark.parametrize(
    ("num_images", "crowd", "iou_thrs"),
    [(60, 0, None), (4, 400, None), (30, 2, (0.3, 0.5)), (30, 2, (0.3,))],
    ids=["usual", "more than 100 predictions", "two thresholds", "one threshold"],
)
@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct scores", "tied scores"])
def test_box_numbers_equal_pycocotools_to_the_last_bit(
    make_scenes: Any, num_images: int, crowd: int, iou_thrs: tuple[float, ...] | None, decimals: int
) -> None:
    result = evaluate(make_scenes(num_images, seed=1, crowd=crowd, decimals=decimals), settings=EvalSettings(iou_thrs=iou_thrs))
    stats, by_category = _pycocotools(result, "bbox", iou_thrs)
    assert [result.metrics[f"bbox_{key}"] for key in SUMMARY_KEYS] == stats.tolist()
    assert result.category_ap.tolist() == by_category.tolist()


def test_segmentation_numbers_equal_pycocotools_to_the_last_bit(make_scenes: Any) -> None:
    result = evaluate(make_scenes(40, seed=2, polygons=True))
    stats, _ = _pycocotools(result, "segm")
    assert [result.metrics[f"segm_{key}"] for key in SUMMARY_KEYS] == stats.tolist()


def test_overlaps_equal_pycocotools_for_boxes_and_masks(make_scenes: Any) -> None:
    data = ingest_records(make_scenes(30, seed=3, polygons=True))
    overlaps = find_overlaps(data, minimum=0.05)
    assert len(overlaps) > 50
    for pred, gt, iou in zip(overlaps.pred.tolist(), overlaps.gt.tolist(), overlaps.iou.tolist(), strict=True):
        if pred in data.pred.polygons or gt in data.gt.polygons:
            masks = [coco_mask.frPyObjects([_ring(table, row)], 180, 240)[0] for table, row in ((data.pred, pred), (data.gt, gt))]
            expected = coco_mask.iou([masks[0]], [masks[1]], [0])[0, 0]
        else:
            x, y = data.pred.boxes[[pred]].copy(), data.gt.boxes[[gt]].copy()
            x[:, 2:] -= x[:, :2]
            y[:, 2:] -= y[:, :2]
            expected = coco_mask.iou(x, y, [0])[0, 0]
        assert iou == pytest.approx(expected, abs=1e-12)


def _ring(table: Any, row: int) -> list[float]:
    x1, y1, x2, y2 = table.boxes[row].tolist()
    return table.polygons[row].tolist() if row in table.polygons else [x1, y1, x2, y1, x2, y2, x1, y2]


def test_a_perfect_prediction_gives_one_everywhere(make_scenes: Any) -> None:
    records = [{**record, "pred": record["gt"]} for record in make_scenes(30, seed=4, polygons=True)]
    metrics = evaluate(records, settings=EvalSettings(pixel_mode="exact")).metrics
    shares = [key for key in metrics if key.startswith("f1_det") and not key.endswith(("_tp", "_fp", "_fn"))]
    assert all(metrics[key] == 1.0 for key in [*shares, "mean_matched_iou", "f1ish@0.50_f1_full_micro", "f1ish@0.30_f1_loc_macro"])
    assert metrics["bbox_AP"] == pytest.approx(1.0, abs=1e-12)


def test_the_order_of_lines_changes_nothing(make_scenes: Any) -> None:
    records = make_scenes(50, seed=5)
    shuffled = [records[place] for place in np.random.default_rng(0).permutation(len(records))]
    first, second = evaluate(records), evaluate(shuffled)
    assert first.scores.ap_valid
    assert second.metrics == pytest.approx(first.metrics, abs=1e-12)


def test_the_data_set_twice_gives_the_same_numbers(make_scenes: Any) -> None:
    records = make_scenes(40, seed=6)
    once, twice = evaluate(records).metrics, evaluate([*records, *records]).metrics
    counts = ("_tp", "_fp", "_fn", "_loc", "_full", "_ok", "_bad", "_total", "_eval", "_ignored")
    assert {key: once[key] for key in once if not key.endswith(counts)} == pytest.approx(
        {key: twice[key] for key in once if not key.endswith(counts)}, abs=1e-9
    )


def test_the_counts_of_two_halves_add_up(make_scenes: Any) -> None:
    records = make_scenes(40, seed=7)
    whole, first, second = (evaluate(part).det.total.at(0.5) for part in (records, records[:17], records[17:]))
    assert whole == tuple(a + b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("pred", "counts"),
    [
        ([CAT], (1, 0, 0)),
        ([CAT, CAT], (1, 1, 0)),
        ([{**CAT, "desc": " CAT_"}], (1, 0, 0)),
        ([{**CAT, "desc": "dog"}], (0, 1, 1)),
        ([{"bbox_2d": [10, 10, 50, 30], "desc": "cat"}], (1, 0, 0)),
        ([{"bbox_2d": [10, 10, 50, 29], "desc": "cat"}], (0, 1, 1)),
        ([], (0, 0, 1)),
    ],
    ids=["right", "twice", "same normalized name", "other name", "IoU of exactly 0.50", "IoU below", "none"],
)
def test_f1_det_counts(record: Any, pred: list[Any], counts: tuple[int, int, int]) -> None:
    result = evaluate([record([CAT], pred)])
    assert result.det.total.at(0.5) == counts
    tp, fp, fn = counts
    assert result.metrics["f1_det@0.50"] == 2 * tp / (2 * tp + fp + fn)


def test_f1_det_breakdowns_hold_every_object_once(make_scenes: Any) -> None:
    det = evaluate(make_scenes(60, seed=8)).det
    for groups in (det.by_class, det.by_size.values(), det.by_num_objects.values(), det.per_image):
        assert tuple(np.sum([counts.at(0.75) for counts in groups], axis=0).tolist()) == det.total.at(0.75)


def test_predictions_in_an_image_without_ground_truth_are_false_for_f1_det_and_ignored_by_scope(record: Any) -> None:
    records = [record(pred=[CAT]), record([CAT], [CAT], image="b.png")]
    annotated, everything = (evaluate(records, settings=EvalSettings(f1ish_pred_scope=scope)).metrics for scope in ("annotated", "all"))
    assert annotated["f1_det@0.50_fp"] == 1
    assert (annotated["f1ish@0.50_pred_ignored"], annotated["f1ish@0.50_fp_loc"]) == (1, 0)
    assert (everything["f1ish@0.50_pred_ignored"], everything["f1ish@0.50_fp_loc"]) == (0, 1)


@pytest.mark.parametrize(
    ("scores", "mode", "used", "is_valid"),
    [
        ((0.9, 0.4), "auto", "model", True),
        ((0.9, 0.9), "auto", "constant", False),
        ((0.9, None), "auto", "constant", False),
        ((0.9, 0.4), "constant", "constant", False),
        ((0.9, 0.9), "model", "model", False),
        ((0.9,), "auto", "constant", True),
    ],
)
def test_tied_scores_make_ap_invalid_and_say_why(record: Any, scores: tuple[Any, ...], mode: Any, used: str, is_valid: bool) -> None:
    result = evaluate([record([CAT], [{**CAT, "score": score} for score in scores])], settings=EvalSettings(score_mode=mode))
    assert (result.scores.mode, result.scores.ap_valid, result.scores.ap_note is None) == (used, is_valid, is_valid)


def test_score_mode_model_needs_all_scores(record: Any) -> None:
    with pytest.raises(DataError, match="1 of 1 predictions have no score"):
        evaluate([record([CAT], [CAT])], settings=EvalSettings(score_mode="model"))


def test_without_predictions_ap_is_zero_and_without_ground_truth_undefined(record: Any) -> None:
    assert evaluate([record([CAT])]).metrics["bbox_AP"] == 0.0
    assert evaluate([record(pred=[CAT])]).metrics["bbox_AP"] == -1.0
    assert evaluate([]).metrics["bbox_AP"] == -1.0
