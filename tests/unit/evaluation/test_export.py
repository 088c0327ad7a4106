"""Results for other tools: COCO data sets, and detections of the real library supervision."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO

from coordexp.cli.main import main
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.export import to_supervision, write_coco_pair
from coordexp.evaluation.result import EvaluationResult
from coordexp.types.errors import BackendError

CAT = {"type": "bbox_2d", "points": [10, 10, 50, 50], "desc": "cat"}
RING = {"type": "poly", "points": [5, 5, 45, 5, 45, 45], "desc": "cat"}


@pytest.fixture
def result(record: Any) -> EvaluationResult:
    """A hit, a prediction with a name that no ground truth has, a missed polygon, and an image with nothing."""
    pred = [{**CAT, "points": [10, 10, 50, 48], "score": 0.75}, {**CAT, "desc": "dog", "points": [60, 10, 90, 40], "score": 0.5}]
    return evaluate([record([CAT], pred), record([RING], [], image="sub/b.png"), record(image="c.png")])


def read_pair(result: EvaluationResult, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    write_coco_pair(result, folder)
    truth, said = (json.loads((folder / name).read_text()) for name in ("ground_truth.json", "predictions.json"))
    return truth, said


def test_both_files_have_the_same_images_and_every_name(tmp_path: Path, result: EvaluationResult) -> None:
    truth, said = read_pair(result, tmp_path)
    assert truth["images"] == said["images"]
    assert [image["file_name"] for image in truth["images"]] == ["a.png", "sub/b.png", "c.png"]
    assert truth["categories"] == said["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def test_every_object_says_what_became_of_it(tmp_path: Path, result: EvaluationResult) -> None:
    truth, said = read_pair(result, tmp_path)
    assert [(item["status"], item.get("iou"), item["score"], item["category_id"]) for item in said["annotations"]] == [
        ("tp", 0.95, 0.75, 1),
        ("fp", None, 0.5, 2),
    ]
    assert [(item["status"], item["bbox"]) for item in truth["annotations"]] == [("tp", [10, 10, 40, 40]), ("fn", [5, 5, 40, 40])]
    assert [item.get("segmentation") for item in truth["annotations"]] == [None, [[5, 5, 45, 5, 45, 45]]]


def test_the_reference_reader_of_coco_takes_both(tmp_path: Path, make_scenes: Any) -> None:
    result = evaluate(make_scenes(20, seed=3, polygons=True))
    write_coco_pair(result, tmp_path)
    for name, table in (("ground_truth.json", result.data.gt), ("predictions.json", result.data.pred)):
        coco = COCO(str(tmp_path / name))
        assert len(coco.anns) == len(table)
        assert len(coco.imgs) == 20
        polygons = [item for item in coco.anns.values() if "segmentation" in item]
        assert len(polygons) == len(table.polygons)
        assert all(coco.annToMask(item).any() for item in polygons[:5])


def test_supervision_gets_boxes_names_scores_and_masks(result: EvaluationResult) -> None:
    first, second, third = to_supervision(result)
    assert isinstance(first.predictions, sv.Detections)
    assert first.predictions.xyxy.tolist() == [[10, 10, 50, 48], [60, 10, 90, 40]]
    assert first.predictions.confidence is not None
    assert first.predictions.confidence.tolist() == [0.75, 0.5]
    assert (first.predictions["class_name"].tolist(), first.predictions["status"].tolist()) == (["cat", "dog"], ["tp", "fp"])
    assert (first.ground_truth.confidence, first.ground_truth.mask, first.ground_truth["status"].tolist()) == (None, None, ["tp"])
    assert second.file_name == "sub/b.png"
    assert second.ground_truth.mask is not None
    assert second.ground_truth.mask.shape == (1, 80, 100)
    assert (len(second.predictions), len(third.ground_truth), len(third.predictions)) == (0, 0, 0)


def test_supervision_filters_and_draws_them(make_scenes: Any) -> None:
    result = evaluate(make_scenes(3, seed=3))
    image = next(item for item in to_supervision(result) if len(item.predictions) > 1)
    sure = image.predictions[image.predictions.confidence > image.predictions.confidence.min()]
    assert len(sure) == len(image.predictions) - 1
    drawn = sv.BoxAnnotator().annotate(np.zeros((180, 240, 3), np.uint8), sure)
    assert drawn.any()


def test_supervision_opens_the_exported_files_as_data_sets(tmp_path: Path, result: EvaluationResult) -> None:
    write_coco_pair(result, tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c.png"):
        Image.new("RGB", (100, 80)).save(tmp_path / name)
    opened = sv.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "predictions.json"))
    assert opened.classes == ["cat", "dog"]
    assert sorted(len(detections) for detections in opened.annotations.values()) == [0, 0, 2]


def test_without_supervision_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, result: EvaluationResult) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(BackendError, match=r"supervision, which is not installed; pip install 'coordexp\[supervision\]'"):
        next(to_supervision(result))


def test_the_command_writes_both_files_and_replaces_earlier_ones(tmp_path: Path, make_scenes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_scenes(4, seed=3)
    (tmp_path / "gt_vs_pred.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for _ in range(2):
        assert main(["eval", "export", str(tmp_path), "--out_dir", str(tmp_path / "export"), "--pixel-mode", "exact"]) == 0
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["ground_truth.json", "predictions.json"]
    expected = evaluate(records, settings=EvalSettings(pixel_mode="exact"))
    assert len(json.loads((tmp_path / "export" / "predictions.json").read_text())["annotations"]) == len(expected.data.pred)
    assert "4 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["gone", "--out_dir", "o"], "error: gone: there is no gt_vs_pred.jsonl"),
        (["."], "error: Missing option '--out_dir' / '--out-dir'; see 'coordexp eval export --help'"),
        ([".", "--out_dir", "gt_vs_pred.jsonl"], "error: gt_vs_pred.jsonl: a file stands where a folder is needed"),
        ([".", "--out_dir", "o", "--pixel-mode", "float"], "error: Invalid value for '--pixel-mode' / '--pixel_mode'"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, record: Any, flags: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gt_vs_pred.jsonl").write_text(json.dumps(record()) + "\n")
    assert main(["eval", "export", *flags]) == 2
    assert capsys.readouterr().err.startswith(sentence)
    assert [path.name for path in tmp_path.iterdir()] == ["gt_vs_pred.jsonl"]


def test_without_fiftyone_one_sentence_says_so_and_the_coco_files_are_there(
    tmp_path: Path, record: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    Path("gt_vs_pred.jsonl").write_text(json.dumps(record()) + "\n")
    assert main(["eval", "export", ".", "--out_dir", "o", "--fiftyone", "mine"]) == 2
    sentence = (
        "error: fiftyone: FiftyOne is not installed; the two COCO files are written; pip install fiftyone, or import the COCO files with any other tool\n"
    )
    assert capsys.readouterr().err.endswith(sentence)
    assert sorted(path.name for path in Path("o").iterdir()) == ["ground_truth.json", "predictions.json"]
