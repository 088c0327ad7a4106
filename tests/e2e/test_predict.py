"""Pictures without ground truth: the shipped checkpoint finds what was drawn, in the pixels of each picture, from the command and from Python."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image
from pycocotools.coco import COCO

from coordexp import Detections, Detector
from coordexp.cli.main import main
from coordexp.data.synthetic import load_split, render_scene
from coordexp.geometry.boxes import box_iou
from coordexp.pipeline.prediction_files import label_files, write_predictions
from coordexp.types.errors import CheckpointError, DataError, OutputError

SIDE = 192
ODD = (301, 203)


@dataclass(frozen=True)
class Drawn:
    """A scene of three objects in a folder, in several forms, and where its objects are."""

    folder: Path
    names: list[str]
    boxes: np.ndarray

    def scaled(self, width: int, height: int) -> np.ndarray:
        return self.boxes * ((np.array([width, height, width, height]) - 1) / (SIDE - 1))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    folder = tmp_path_factory.mktemp("pictures")
    scene = render_scene(load_split("shapes-val").settings, 1)
    image = Image.fromarray(scene.image)
    image.save(folder / "a.png")
    image.resize(ODD, Image.Resampling.BICUBIC).save(folder / "odd.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: shown, the file is turned clockwise
    image.resize(ODD, Image.Resampling.BICUBIC).transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=98)
    (folder / "broken.jpg").write_bytes((folder / "turned.jpg").read_bytes()[:2000])
    return Drawn(folder, [item.desc for item in scene.objects], np.array([item.points for item in scene.objects], dtype=np.float64))


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    with Detector("tiny", device="cpu", max_new_tokens=160) as opened:
        yield opened


@pytest.fixture(scope="module")
def found(detector: Detector, drawn: Drawn) -> list[Detections]:
    return detector.predict([drawn.folder / name for name in ("a.png", "odd.png", "turned.jpg", "broken.jpg")])


def assert_found(detections: Detections, names: list[str], boxes: np.ndarray) -> None:
    assert detections.labels == names
    overlaps = np.diag(box_iou(detections.boxes, boxes))
    assert overlaps.min() > 0.85, overlaps


def test_boxes_lie_on_the_objects_in_the_pixels_of_each_picture(found: list[Detections], drawn: Drawn) -> None:
    for detections, size in zip(found[:3], ((SIDE, SIDE), ODD, ODD), strict=True):
        assert detections.size == size
        assert detections.errors == ()
        assert_found(detections, drawn.names, drawn.scaled(*size))
        assert np.all((detections.scores > 0.5) & (detections.scores <= 1))


def test_a_picture_that_cannot_be_read_is_an_error_among_the_others(found: list[Detections]) -> None:
    assert found[3].errors == ("image_error",)
    assert found[3].is_failed
    assert "broken.jpg cannot be decoded" in (found[3].message or "")
    assert len(found[3]) == 0
    assert found[3].boxes.shape == (0, 4)


def test_files_pillow_images_and_arrays_are_the_same_pictures(detector: Detector, drawn: Drawn, found: list[Detections]) -> None:
    with Image.open(drawn.folder / "odd.png") as image, Image.open(drawn.folder / "turned.jpg") as turned:
        array = np.asarray(image.convert("RGB"))
        several = detector.predict([image, array, turned])
    expected = [found[1], found[1], found[2]]
    for mine, theirs in zip(several, expected, strict=True):
        assert mine.raw_output == theirs.raw_output
        np.testing.assert_allclose(mine.boxes, theirs.boxes)
    single = detector.predict(array)
    assert isinstance(single, Detections)
    assert single.labels == drawn.names
    wrong = detector.predict([array.astype(np.float32), np.zeros((0, 4, 3), np.uint8)])
    assert all("is no picture" in (item.message or "") for item in wrong)


def test_scores_choose_and_json_is_a_line_of_the_artifact(found: list[Detections]) -> None:
    highest = found[0].scores.max()
    assert found[0].at_least(highest).scores.tolist() == [highest]
    line = found[0].to_json()
    assert line["gt"] == []
    assert [item["desc"] for item in line["pred"]] == found[0].labels
    assert json.loads(json.dumps(line)) == line


def test_supervision_gets_boxes_scores_and_names(found: list[Detections]) -> None:
    detections = found[1].to_supervision(classes=["square", found[1].labels[-1]])
    assert isinstance(detections, sv.Detections)
    np.testing.assert_allclose(detections.xyxy, found[1].boxes)
    np.testing.assert_allclose(detections.confidence, found[1].scores)  # type: ignore[arg-type]
    assert list(detections.data["class_name"]) == found[1].labels
    assert detections.class_id is not None
    assert detections.class_id.tolist()[-1] == 1
    assert len(found[3].to_supervision()) == 0


def test_coco_files_are_read_by_pycocotools(found: list[Detections], drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_predictions(found, tmp_path / "c.json", form="coco", labels=["square"])
    coco = COCO(str(tmp_path / "c.json"))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [item.image for item in found[:3]]
    rows = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    names = {row["id"]: row["name"] for row in coco.loadCats(coco.getCatIds())}
    assert names[1] == "square"
    assert [names[row["category_id"]] for row in rows] == drawn.names
    corners = np.array([row["bbox"] for row in rows]) @ np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(corners, found[1].boxes)
    assert [row["score"] for row in rows] == found[1].scores.tolist()


def test_yolo_files_hold_shares_of_the_sides(found: list[Detections], tmp_path: Path) -> None:
    write_predictions(found, tmp_path / "yolo", form="yolo")
    classes = (tmp_path / "yolo" / "classes.txt").read_text().splitlines()
    assert sorted(path.name for path in (tmp_path / "yolo" / "labels").iterdir()) == ["a.txt", "odd.txt", "turned.txt"]
    rows = [list(map(float, line.split())) for line in (tmp_path / "yolo" / "labels" / "odd.txt").read_text().splitlines()]
    assert [classes[int(row[0])] for row in rows] == found[1].labels
    centres, sides = np.array(rows)[:, 1:3] * ODD, np.array(rows)[:, 3:5] * ODD
    np.testing.assert_allclose(np.hstack([centres - sides / 2, centres + sides / 2]), found[1].boxes, atol=0.001)
    with pytest.raises(OutputError, match="not an empty folder"):
        write_predictions(found, tmp_path / "yolo", form="yolo")


def test_the_csv_of_supervision_has_a_row_for_each_object(found: list[Detections], tmp_path: Path) -> None:
    write_predictions(found, tmp_path / "d.csv", form="supervision")
    with (tmp_path / "d.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["class_name"] for row in rows] == [name for item in found for name in item.labels]
    assert [row["image"] for row in rows] == [item.image for item in found for _ in item.labels]
    corners = np.array([[float(row[name]) for name in ("x_min", "y_min", "x_max", "y_max")] for row in rows])
    np.testing.assert_allclose(corners, np.concatenate([item.boxes for item in found]), rtol=1e-5)


def test_pictures_that_would_share_a_yolo_file_are_refused_before_the_work() -> None:
    files = label_files(["d/x/1.jpg", "d/y/1.jpg", "d/y/2.png"])
    assert {image: str(file) for image, file in files.items()} == {"d/x/1.jpg": "x/1.txt", "d/y/1.jpg": "y/1.txt", "d/y/2.png": "y/2.txt"}
    with pytest.raises(DataError, match="would share"):
        label_files(["d/1.jpg", "d/1.png"])


def test_the_command_goes_on_after_a_broken_picture_and_its_exit_code_says_so(drawn: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vis = tmp_path / "vis"
    arguments = [str(drawn.folder), str(tmp_path / "missing.png"), "--model", "tiny", "--device", "cpu", "--max-new-tokens", "160"]
    assert main(["predict", *arguments, "--save-vis", str(vis)]) == 3
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["a.png", "broken.jpg", "odd.png", "turned.jpg", "missing.png"]
    assert [line["errors"] for line in lines] == [[], ["image_error"], [], [], ["image_error"]]
    assert "missing.png does not exist" in printed.err
    assert "5 pictures, 2 failed, 9 objects" in printed.err
    assert sorted(path.name for path in vis.iterdir()) == ["0000_a.png", "0002_odd.png", "0003_turned.png"]
    with Image.open(vis / "0002_odd.png") as picture:
        assert picture.size == (640, round(640 * ODD[1] / ODD[0]))


def test_labels_and_constraint_leave_no_other_name(drawn: Drawn, tmp_path: Path) -> None:
    arguments = [str(drawn.folder / "a.png"), "--model", "tiny", "--device", "cpu", "--labels", "red square, blue circle", "--constrain", "json"]
    assert main(["predict", *arguments, "--out", str(tmp_path / "p.jsonl"), "--max-new-tokens", "160"]) == 0
    line = json.loads((tmp_path / "p.jsonl").read_text())
    assert {item["desc"] for item in line["pred"]} <= {"red square", "blue circle"}
    assert "broken" not in line


def test_the_native_format_is_read_by_its_own_rules(drawn: Drawn) -> None:
    with Detector("tiny", device="cpu", mode="native", max_new_tokens=8) as stock:
        found = stock.predict(drawn.folder / "a.png")
    assert not found.is_failed  # the tiny checkpoint never learned this format: what counts is that it was asked in it
    assert found.to_json()["mode"] == "text"


WRONG: dict[str, tuple[list[str], str]] = {
    "no model": (["a.png"], "--model"),
    "no such checkpoint": (["a.png", "--model", "no/model"], "no/model: no such checkpoint folder"),
    "a folder without pictures": ([".", "--model", "tiny"], "the folder holds no pictures"),
    "a form without a place": (["a.png", "--model", "tiny", "--format", "coco"], "give --out"),
    "a preset that is none": (["a.png", "--model", "tiny", "--preset", "large"], "'large' is not a preset"),
    "a calibration that is none": (["a.png", "--model", "tiny", "--calibration", "c.json"], "c.json: cannot be read"),
    "constrained in native mode": (["a.png", "--model", "tiny", "--mode", "native", "--constrain", "json"], "not the native one"),
    "expectation in text mode": (["a.png", "--model", "tiny", "--mode", "text", "--coord-decode", "expectation"], "no coordinate tokens"),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *arguments]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Detector(tmp_path)


def test_importing_the_package_loads_nothing_and_its_detections_no_torch() -> None:
    code = "import sys, coordexp; before = {'torch', 'numpy'} & set(sys.modules); coordexp.Detections; print(before, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set() False"
