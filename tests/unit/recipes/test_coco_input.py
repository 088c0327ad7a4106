"""`coordexp eval` on COCO files, from configuration to folder; which inputs go together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coordexp.cli.main import app
from coordexp.config.compare import CompareConfig
from coordexp.config.evaluation import EvalConfig
from coordexp.config.loading import load_config
from coordexp.recipes.compare import run_compare
from coordexp.recipes.evaluate import run_evaluation
from coordexp.types.errors import ConfigError, DataError


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """One image with a cat that is found, of LVIS."""
    box = {"image_id": 5, "category_id": 2, "bbox": [1.5, 2, 10, 10]}
    image = {"id": 5, "file_name": "5.jpg", "width": 40, "height": 30, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth = {"images": [image], "categories": [{"id": 2, "name": "cat", "frequency": "f"}], "annotations": [{**box, "id": 1, "area": 100, "iscrowd": 0}]}
    paths = tmp_path / "instances.json", tmp_path / "results.json"
    paths[0].write_text(json.dumps(truth))
    paths[1].write_text(json.dumps([{**box, "score": 0.5}]))
    return paths


def _run(files: tuple[Path, Path], **settings: Any) -> dict[str, Any]:
    out = files[0].parent / "eval"
    run_evaluation(EvalConfig(coco_gt=files[0], coco_preds=files[1], out_dir=out, **settings))
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize(("settings", "has_rare"), [({}, True), ({"protocol": "coco"}, False), ({"protocol": "lvis"}, True)], ids=["auto", "coco", "lvis"])
def test_the_protocol_reaches_the_evaluator(files: tuple[Path, Path], settings: Any, has_rare: bool) -> None:
    summary = _run(files, **settings)
    assert ("bbox_APr" in summary["metrics"]) == has_rare
    assert summary["metrics"]["f1_det@0.50"] == 1.0
    assert summary["predictions"] == str(files[1])


def test_the_flags_of_the_command(files: tuple[Path, Path]) -> None:
    out = files[0].parent / "out"
    done = CliRunner().invoke(app, ["eval", "--coco-gt", str(files[0]), "--coco-preds", str(files[1]), "--out_dir", str(out), "--protocol", "coco"])
    assert done.exit_code == 0, done.output
    assert "AP@0.50:0.95" in json.loads((out / "metrics.json").read_text())["protocol"]["label"]


def test_evaluations_of_masks_and_of_boxes_are_compared_as_they_were_made(files: tuple[Path, Path]) -> None:
    ring = {"segmentation": [[1.5, 2, 11.5, 2, 11.5, 12]]}
    truth, results = (json.loads(path.read_text()) for path in files)
    truth["annotations"][0] |= {"segmentation": [[1.5, 2, 11.5, 12, 1.5, 12]]}
    files[0].write_text(json.dumps(truth))
    files[1].write_text(json.dumps([result | ring for result in results]))
    folders = files[0].parent / "masks", files[0].parent / "boxes"
    for folder, no_segm in zip(folders, (False, True), strict=True):
        run_evaluation(EvalConfig(coco_gt=files[0], coco_preds=files[1], out_dir=folder, no_segm=no_segm))
    comparison, _ = run_compare(CompareConfig(a=folders[0], b=folders[1], out_dir=files[0].parent / "out", bootstrap=0))
    change = comparison.metrics["f1_det@0.50"]
    assert (change.a, change.b, comparison.is_comparable) == (0.0, 1.0, False)


def test_strict_parse_makes_a_bad_entry_an_error(files: tuple[Path, Path]) -> None:
    files[1].write_text(json.dumps([*json.loads(files[1].read_text()), {}]))
    assert _run(files)["counters"]["invalid_results"] == 1
    with pytest.raises(DataError, match=r"results\[1\]: there is no image_id; correct the entry"):
        _run(files, strict_parse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "pred_jsonl: is required; give --pred_jsonl, or --coco-gt with --coco-preds"),
        (["coco_gt=a"], "coco_preds: is required beside coco_gt; give --coco-preds"),
        (["coco_preds=a"], "coco_gt: is required beside coco_preds; give --coco-gt"),
        (
            ["coco_gt=a", "coco_preds=b", "pred_jsonl=c"],
            "stands beside coco_gt or coco_preds; give --pred_jsonl, or --coco-gt with --coco-preds, not both",
        ),
        (["pred_jsonl=c", "protocol=lvis"], "protocol: is for COCO files alone; remove it, or give --coco-gt with --coco-preds in place of --pred_jsonl"),
    ],
)
def test_exactly_one_kind_of_input_is_asked_for(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, EvalConfig, ["out_dir=o", *settings])
    assert str(error.value).endswith(message)
