"""Pictures: one file an image, legible, and nothing from outside the image root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.recipes.vis import run_vis
from coordexp.types.errors import DataError
from coordexp.viz.palette import class_color, contrast, readable_on
from coordexp.viz.pictures import PANEL_SIDE, DrawnObject, draw_pair


def test_pictures_are_numbered_in_file_order_and_small_images_are_enlarged(make_run: Any, tmp_path: Path) -> None:
    written = run_vis(make_run() / "gt_vs_pred.jsonl", tmp_path / "vis", limit=3)
    assert [path.name for path in written.files] == ["vis_0000.png", "vis_0001.png", "vis_0002.png"]
    with Image.open(written.files[0]) as picture:
        assert picture.width > 2 * PANEL_SIDE


def test_a_limit_of_zero_draws_all_and_an_earlier_run_is_replaced(make_run: Any, tmp_path: Path) -> None:
    run = make_run() / "gt_vs_pred.jsonl"
    (tmp_path / "vis").mkdir()
    (tmp_path / "vis" / "mine.txt").write_text("mine")
    run_vis(run, tmp_path / "vis", limit=0)
    run_vis(run, tmp_path / "vis", limit=1)
    assert sorted(path.name for path in (tmp_path / "vis").iterdir()) == ["mine.txt", "vis_0000.png"]


@pytest.mark.parametrize("image", ["../secret.png", "/etc/hostname", "images/link.png", "images/none.png"])
def test_an_image_outside_the_root_is_never_opened(make_run: Any, tmp_path: Path, image: str) -> None:
    Image.new("RGB", (96, 72), (255, 0, 0)).save(tmp_path / "secret.png")
    run = make_run(records=[{"gt": [], "pred": []}, {"gt": [], "pred": [], "image": image}])
    (run / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    written = run_vis(run / "gt_vs_pred.jsonl", tmp_path / "vis")
    assert len(written.unreadable) == 1
    pixels = np.asarray(Image.open(written.files[1]).convert("RGB")).reshape(-1, 3)
    assert not (pixels == [255, 0, 0]).all(axis=1).any()


def test_a_wrong_root_is_one_sentence_and_leaves_nothing(make_run: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image can be read"):
        run_vis(make_run() / "gt_vs_pred.jsonl", tmp_path / "vis", root_image_dir=tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        run_vis(make_run("other") / "gt_vs_pred.jsonl", tmp_path / "vis", root_image_dir=tmp_path / "nowhere")
    assert not (tmp_path / "vis").exists()


def test_the_root_of_the_environment_is_used(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    (run / "images").rename(tmp_path / "images")
    monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path))
    assert not run_vis(run / "gt_vs_pred.jsonl", tmp_path / "vis").unreadable


@pytest.mark.parametrize("desc", ["", "x" * 500, "line\nbreak", "猫と犬", "<b>bold</b>", "\u202eright to left"])
@pytest.mark.parametrize("size", [(96, 72), (4, 2000), (3000, 5)])
def test_any_label_and_any_shape_can_be_drawn(desc: str, size: tuple[int, int]) -> None:
    width, height = size
    item = DrawnObject(desc, (0, 0, width - 1, 0, width - 1, height - 1), score=0.5)
    picture = draw_pair(Image.new("RGB", size), gt=[item], pred=[item, item], size=size, title=desc)
    assert picture.size[0] <= 2 * PANEL_SIDE + 100


def test_a_class_has_one_colour_whatever_its_spelling_and_text_on_it_is_readable() -> None:
    assert class_color("Traffic_light") == class_color("traffic light")
    names = [f"class {index}" for index in range(200)]
    assert len({class_color(name) for name in names}) > 190
    assert all(contrast(class_color(name), readable_on(class_color(name))) >= 4.5 for name in names)
