"""COCO files of any model: the numbers of pycocotools on the same files, to the last bit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coordexp.evaluation.coco import SUMMARY_KEYS
from coordexp.evaluation.evaluate import EvalSettings, evaluate_coco
from coordexp.evaluation.result import EvaluationResult

SEEDS = range(5)


def _pycocotools(paths: tuple[Path, Path], iou_type: str) -> tuple[list[float], list[float]]:
    """(12 summary numbers, AP by category)"""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(paths[0]))
        evaluator = COCOeval(truth, truth.loadRes(str(paths[1])), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    by_category = [precision[:, :, place] for place in range(precision.shape[2])]
    return evaluator.stats.tolist(), [float(values[values > -1].mean()) if (values > -1).any() else -1.0 for values in by_category]


def _assert_equal(result: EvaluationResult, paths: tuple[Path, Path], iou_type: str = "bbox") -> None:
    stats, by_category = _pycocotools(paths, iou_type)
    assert [result.metrics[f"{iou_type}_{key}"] for key in SUMMARY_KEYS] == stats
    if iou_type == "bbox":
        assert result.category_ap.tolist() == by_category


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"ties": True}, {"most": 400, "num_images": 3, "ties": True}, {"crowd": 0.5}, {"gt_masks": True}],
    ids=["boxes", "tied scores", "more than 100 predictions", "many crowd regions", "masks of the ground truth alone"],
)
def test_boxes(make_coco: Any, write_coco: Any, seed: int, options: Any) -> None:
    paths = write_coco(*make_coco(seed, **options))
    result = evaluate_coco(*paths)
    _assert_equal(result, paths)
    assert "segm_AP" not in result.metrics


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ties", [False, True], ids=["distinct scores", "tied scores"])
def test_masks_of_several_parts_and_of_both_kinds_of_run_lengths(make_coco: Any, write_coco: Any, seed: int, ties: bool) -> None:
    paths = write_coco(*make_coco(seed, gt_masks=True, pred_masks=True, ties=ties))
    result = evaluate_coco(*paths)
    _assert_equal(result, paths)
    _assert_equal(result, paths, "segm")


def test_results_of_masks_without_boxes_have_the_box_and_area_of_their_mask(make_coco: Any, write_coco: Any) -> None:
    truth, results = make_coco(3, gt_masks=True, pred_masks=True)
    for item in results:
        del item["bbox"]
    paths = write_coco(truth, results)
    result = evaluate_coco(*paths)
    _assert_equal(result, paths)
    _assert_equal(result, paths, "segm")


def test_boxes_without_area_count_as_written(make_coco: Any, write_coco: Any) -> None:
    truth, results = make_coco(4)
    truth["annotations"][0]["bbox"][2] = 0.0
    results[0]["bbox"][3] = 0.0
    results[1]["bbox"][2] = -3.0
    results[2]["bbox"] = [500.0, 500.0, 10.0, 10.0]
    paths = write_coco(truth, results)
    result = evaluate_coco(*paths)
    _assert_equal(result, paths)
    assert "2 results have a box without width or height" in " ".join(result.warnings)


@pytest.mark.parametrize("shift", [-500, 2**60], ids=["negative ids", "ids beyond the whole numbers of a float"])
def test_any_whole_number_is_an_image_id(make_coco: Any, write_coco: Any, shift: int) -> None:
    truth, results = make_coco(5, ties=True)
    for image in truth["images"]:
        image["id"] += shift
    for item in [*truth["annotations"], *results]:
        item["image_id"] += shift
    paths = write_coco(truth, results)
    result = evaluate_coco(*paths)
    _assert_equal(result, paths)
    assert {image.image_id for image in result.data.images} == {image["id"] for image in truth["images"]}


def test_an_annotation_with_id_0_counts_and_the_warning_says_that_pycocotools_drops_its_match(write_coco: Any) -> None:
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}
    truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": [{**box, "id": 0, "area": 100, "iscrowd": 0}]}
    paths = write_coco(truth, [{**box, "score": 0.5}])
    result = evaluate_coco(*paths)
    assert (result.metrics["bbox_AP"], _pycocotools(paths, "bbox")[0][0]) == (pytest.approx(1.0), 0.0)
    assert "the id 0, which pycocotools takes for 'not matched'" in result.warnings[0]


def test_other_thresholds_replace_the_usual_ones(make_coco: Any, write_coco: Any) -> None:
    result = evaluate_coco(*write_coco(*make_coco(6)), settings=EvalSettings(iou_thrs=(0.5,)))
    assert result.metrics["bbox_AP"] == result.metrics["bbox_AP50"]


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_the_saved_coco_files_give_the_same_numbers_again(make_coco: Any, write_coco: Any, tmp_path: Path, masks: bool) -> None:
    truth, results = make_coco(7, gt_masks=masks, pred_masks=masks)
    first = evaluate_coco(*write_coco(truth, results))
    first.save(tmp_path / "out")
    saved = tmp_path / "out/coco_gt.json", tmp_path / "out/coco_preds.json"
    again = evaluate_coco(*saved)
    assert again.metrics == first.metrics
    stats, _ = _pycocotools(saved, "segm" if masks else "bbox")
    assert stats[0] == first.metrics["segm_AP" if masks else "bbox_AP"]
    ids = {item["id"]: item["iscrowd"] for item in json.loads(saved[0].read_text())["annotations"]}
    assert ids == {item["id"]: item["iscrowd"] for item in truth["annotations"]}


def test_order_of_images_in_the_file_does_not_matter(make_coco: Any, write_coco: Any) -> None:
    truth, results = make_coco(8)
    first = evaluate_coco(*write_coco(truth, results)).metrics
    truth["images"] = [truth["images"][place] for place in np.random.default_rng(0).permutation(len(truth["images"]))]
    assert evaluate_coco(*write_coco(truth, results)).metrics == pytest.approx(first)
