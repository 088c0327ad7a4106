"""LVIS rules: the numbers of the lvis package to the last bit, and what an image that is annotated for some categories only means for f1_det."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.coco import LVIS_SUMMARY_KEYS
from coordexp.evaluation.evaluate import EvalSettings, evaluate_coco
from coordexp.types.errors import DataError


@pytest.fixture
def lvis(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package without its drawing module, on a NumPy that still has `np.float`."""
    monkeypatch.setattr(np, "float", float, raising=False)
    package = ModuleType("lvis")
    installed = importlib.util.find_spec("lvis")
    assert installed is not None, "the extra dev has it"
    package.__path__ = list(installed.submodule_search_locations or ())
    monkeypatch.setitem(sys.modules, "lvis", package)
    for name in ("lvis", "results", "eval"):
        monkeypatch.delitem(sys.modules, f"lvis.{name}", raising=False)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of a function name of its own
    yield importlib.import_module("lvis.eval")
    logging.disable(previous)
    for name in ("lvis", "results", "eval"):
        sys.modules.pop(f"lvis.{name}", None)


def _referee(lvis: ModuleType, paths: tuple[Path, Path], iou_type: str) -> dict[str, float]:
    evaluator = lvis.LVISEval(str(paths[0]), str(paths[1]), iou_type)
    evaluator.run()
    return {key: float(value) for key, value in evaluator.get_results().items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "options",
    [{}, {"ties": True}, {"most": 200, "num_images": 3, "ties": True}, {"gt_masks": True, "pred_masks": True}],
    ids=["boxes", "tied scores", "more than 300 predictions", "masks"],
)
def test_numbers_equal_those_of_the_lvis_package(lvis: ModuleType, make_coco: Any, write_coco: Any, seed: int, options: Any) -> None:
    truth, results = make_coco(seed, lvis=True, **options)
    truth["annotations"][0]["area"] = 0.0  # LVIS takes no object without area
    paths = write_coco(truth, results)
    result = evaluate_coco(*paths)
    for iou_type in ("bbox", "segm") if options.get("pred_masks") else ("bbox",):
        assert {key: result.metrics[f"{iou_type}_{key}"] for key in LVIS_SUMMARY_KEYS} == _referee(lvis, paths, iou_type)


def test_the_protocol_says_that_lvis_rules_hold_and_coco_rules_can_be_asked_for(make_coco: Any, write_coco: Any) -> None:
    paths = write_coco(*make_coco(1, lvis=True))
    automatic, coco = (evaluate_coco(*paths, settings=EvalSettings(protocol=protocol)) for protocol in ("auto", "coco"))
    assert automatic.protocol.label.endswith(" · LVIS AP@0.50:0.95")
    assert "bbox_APr" in automatic.metrics
    assert "bbox_APr" not in coco.metrics
    assert coco.protocol.differences(automatic.protocol) == ("ap_rules: coco, lvis",)


def test_lvis_rules_need_the_metadata_of_every_image_and_category(make_coco: Any, write_coco: Any) -> None:
    truth, results = make_coco(1, lvis=True)
    del truth["images"][3]["neg_category_ids"]
    paths = write_coco(truth, results)
    what = "stand at 11 of 12 images, frequency r, c or f at 4 of 4 categories"
    with pytest.raises(DataError, match=what):
        evaluate_coco(*paths, settings=EvalSettings(protocol="lvis"))
    assert what in evaluate_coco(*paths).warnings[0]


BOX, ELSEWHERE = [10, 10, 40, 40], [60, 10, 30, 30]


@pytest.mark.parametrize(
    ("category", "box", "counts"),
    [
        (1, BOX, (1, 0, 0)),
        (1, ELSEWHERE, (0, 1, 1)),
        (2, ELSEWHERE, (0, 1, 1)),
        (3, ELSEWHERE, (0, 0, 1)),
        (3, BOX, (0, 0, 1)),
    ],
    ids=["matched", "of a category that is there", "of a category that is verified to be absent", "of a category nobody looked for", "the same over an object"],
)
def test_f1_det_ignores_predictions_of_categories_nobody_looked_for(write_coco: Any, category: int, box: list[int], counts: tuple[int, int, int]) -> None:
    result = evaluate_coco(*write_coco(_one_image(), [{"image_id": 1, "category_id": category, "bbox": box, "score": 0.5}]))
    assert result.det.total.at(0.5) == counts
    assert result.counters["federation_ignored"] == int(counts[0] + counts[1] == 0)


def test_f1_det_ignores_unmatched_predictions_of_a_category_that_is_not_exhaustively_annotated(write_coco: Any) -> None:
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5} for box in (BOX, ELSEWHERE)]
    result = evaluate_coco(*write_coco(_one_image(not_exhaustive=[1]), results))
    assert (result.det.total.at(0.5), result.counters["federation_ignored"]) == ((1, 0, 0), 1)


def test_an_object_marked_ignore_is_no_ground_truth_and_predictions_of_it_are_ignored(write_coco: Any) -> None:
    truth = _one_image()
    truth["annotations"][0]["ignore"] = 1
    results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5} for box in (BOX, ELSEWHERE)]
    result = evaluate_coco(*write_coco(truth, results))
    assert result.det.total.at(0.5) == (0, 1, 0)


def test_the_saved_files_carry_the_metadata(make_coco: Any, write_coco: Any, tmp_path: Path) -> None:
    first = evaluate_coco(*write_coco(*make_coco(2, lvis=True)))
    first.save(tmp_path / "out")
    assert evaluate_coco(tmp_path / "out/coco_gt.json", tmp_path / "out/coco_preds.json").metrics["bbox_AP"] == first.metrics["bbox_AP"]
    assert json.loads((tmp_path / "out/coco_gt.json").read_text())["categories"][0]["frequency"] == "r"


def _one_image(not_exhaustive: Any = ()) -> dict[str, Any]:
    """An object of category 1; category 2 is verified to be absent; nobody looked for category 3."""
    image = {"id": 1, "width": 100, "height": 80, "neg_category_ids": [2], "not_exhaustive_category_ids": list(not_exhaustive)}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": BOX, "area": 1600}
    categories = [{"id": number, "name": f"name {number}", "frequency": "c"} for number in (1, 2, 3)]
    return {"images": [image], "categories": categories, "annotations": [annotation]}
