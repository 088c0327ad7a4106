"""Where the pictures of a report go: into the page, or into a folder beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.recipes.report import run_report
from coordexp.types.errors import DataError, OutputError
from coordexp.viz.thumbnails import EMBED_ALL, EMBED_WORST, FOLDER_SIDE, plan_pictures


def _pictures(report: Path) -> list[int]:
    """For each image: 0 none, 1 in the page, 2 a file."""
    data = re.search(r'id="gallery-data">(.*?)</script>', report.read_text(), re.DOTALL)
    assert data is not None
    return [image[5] for image in json.loads(data[1])["images"]]


@pytest.mark.parametrize(
    ("count", "options", "embedded", "filed"),
    [
        pytest.param(EMBED_ALL, {}, EMBED_ALL, 0, id="a small run is one file"),
        pytest.param(EMBED_ALL + 1, {}, EMBED_WORST, EMBED_ALL + 1 - EMBED_WORST, id="a large one has a folder"),
        pytest.param(500, {"max_images": 10}, 10, 490, id="so many in the page"),
        pytest.param(500, {"max_images": 0}, 500, 0, id="all in the page"),
        pytest.param(500, {"mode": "inline"}, EMBED_WORST, 0, id="one file whatever the size"),
        pytest.param(50, {"mode": "folder", "max_images": 20}, 20, 30, id="a folder for what is over"),
        pytest.param(50, {"mode": "none"}, 0, 0, id="no pictures"),
    ],
)
def test_the_worst_images_are_embedded_and_the_others_become_files(count: int, options: dict[str, Any], embedded: int, filed: int) -> None:
    ranked = list(range(count))[::-1]
    plan = plan_pictures(ranked, **options)
    assert (len(plan.embedded), len(plan.filed)) == (embedded, filed)
    assert [*plan.embedded, *plan.filed] == ranked[: embedded + filed]


def test_files_lie_beside_the_page_and_the_page_may_load_them(make_run: Any, tmp_path: Path) -> None:
    report = run_report(make_run(), output=tmp_path / "out" / "mine.html", max_images=1)
    assert _pictures(report) == [2, 1, 2, 2]
    assert sorted(path.name for path in (tmp_path / "out" / "mine_files").iterdir()) == ["000000.jpg", "000002.jpg", "000003.jpg"]
    assert max(Image.open(tmp_path / "out" / "mine_files" / "000000.jpg").size) <= FOLDER_SIDE
    assert "img-src data: 'self' file:;" in report.read_text()


def test_a_report_replaces_the_pictures_of_an_earlier_one(make_run: Any) -> None:
    run = make_run()
    run_report(run, max_images=1)
    run_report(run, max_images=3)
    assert [path.name for path in (run / "report_files").iterdir()] == ["000003.jpg"]
    run_report(run)
    assert not (run / "report_files").exists()


def test_a_folder_that_holds_something_else_is_not_touched(make_run: Any) -> None:
    run = make_run()
    (run / "report_files").mkdir()
    (run / "report_files" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        run_report(run, max_images=1)
    assert (run / "report_files" / "thesis.txt").read_text() == "mine"
    assert not (run / "report.html").exists()


def test_no_pictures_at_all_needs_no_images(make_run: Any) -> None:
    run = make_run()
    for image in (run / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="no image can be read"):
        run_report(run)
    assert _pictures(run_report(run, thumbnails="none")) == [0, 0, 0, 0]


def test_the_command_takes_the_place_of_the_pictures_and_refuses_another_word(make_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    assert main(["report", str(run), "--thumbnails", "folder", "--max-images", "2"]) == 0
    assert len(list((run / "report_files").iterdir())) == 2
    assert main(["report", str(run), "--thumbnails", "cloud"]) == 2
    assert "'cloud' is none of folder, inline, none" in capsys.readouterr().err


def test_an_evaluation_writes_the_report_of_its_own_result(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, config = make_run(), tmp_path / "eval.yaml"
    config.write_text("report: true\nlabel_match: exact\npixel_mode: exact\n")
    assert main(["eval", "--config", str(config), "--pred_jsonl", str(run), "--out_dir", str(tmp_path / "eval")]) == 0
    assert "pixels=exact" in (tmp_path / "eval" / "report.html").read_text()
    assert _pictures(tmp_path / "eval" / "report.html") == [1, 1, 1, 1]
    assert str(tmp_path / "eval" / "report.html") in capsys.readouterr().err
    assert main(["eval", "--config", str(config), "--no-report", "--pred_jsonl", str(run), "--out_dir", str(tmp_path / "eval")]) == 0
    assert not (tmp_path / "eval" / "report.html").exists()  # results of an earlier run are replaced as a whole


def test_an_evaluation_is_not_lost_because_its_images_are(make_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    for image in (run / "images").iterdir():
        image.unlink()
    arguments = ["eval", "--pred_jsonl", str(run), "--out_dir", str(tmp_path / "eval"), "--label-match", "exact", "--report"]
    assert main(arguments) == 0
    assert "warning: the report has no pictures" in capsys.readouterr().err
    assert "This report has no pictures: " in (tmp_path / "eval" / "report.html").read_text()
    assert (tmp_path / "eval" / "metrics.json").exists()
    assert main([*arguments, "--report-thumbnails", "none"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_predictions_of_another_model_are_shown_on_images_whose_size_is_not_said(make_run: Any, tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 7, "file_name": "1.png"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 5, 40, 30], "area": 1200, "iscrowd": 0}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "preds.json").write_text(json.dumps([{"image_id": 7, "category_id": 3, "bbox": [50, 40, 20, 20], "score": 0.5}]))
    inputs = ["--coco-gt", str(tmp_path / "gt.json"), "--coco-preds", str(tmp_path / "preds.json"), "--root_image_dir", str(make_run() / "images")]
    assert main(["eval", *inputs, "--out_dir", str(tmp_path / "eval"), "--report"]) == 0
    page = (tmp_path / "eval" / "report.html").read_text()
    assert _pictures(tmp_path / "eval" / "report.html") == [1]
    assert '["1.png",70,60,' in page  # as far as the boxes reach
    assert page.count('class="crop"') == 2
