"""Synthetic scenes: what they hold, that they repeat to the byte, and that they are an ordinary COCO data set."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.data.synthetic import (
    DIGIT_NAMES,
    SHAPE_NAMES,
    SceneSettings,
    category_names,
    hash_split,
    head_of,
    load_split,
    render_digits_scene,
    render_scene,
    render_shapes_scene,
    split_names,
    write_coco_dataset,
)
from coordexp.data.synthetic.digits import load_photos, load_samples
from coordexp.data.synthetic.scenes import box_overlap
from coordexp.types.errors import DataError

SHAPES = SceneSettings(name="test-shapes", kind="shapes", seed=5, num_scenes=12)
DIGITS = SceneSettings(name="test-digits", kind="digits", seed=5, num_scenes=12, max_iou=0.1, fold="val")


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("settings", [SHAPES, DIGITS, replace(DIGITS, backgrounds=("photo",))], ids=["shapes", "digits", "photo"])
def test_a_data_set_written_twice_has_the_same_bytes(settings: SceneSettings, tmp_path: Path) -> None:
    first = write_coco_dataset(settings, tmp_path / "a")
    second = write_coco_dataset(settings, tmp_path / "b")
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")
    assert first.sha256 == second.sha256 == hash_split(settings)


@pytest.mark.parametrize("name", split_names())
def test_a_split_of_the_package_begins_with_the_scenes_that_scores_are_quoted_for(name: str) -> None:
    split = load_split(name)
    assert split.settings.name == name
    assert hash_split(head_of(split.settings)) == split.head_sha256


def test_a_scene_does_not_depend_on_how_many_others_are_drawn() -> None:
    alone = render_scene(SHAPES, 7)
    for index in range(7):
        render_scene(SHAPES, index)
    assert np.array_equal(alone.image, render_scene(replace(SHAPES, num_scenes=100), 7).image)


@pytest.mark.parametrize("change", [{"seed": 6}, {"name": "other"}], ids=["seed", "name"])
def test_another_seed_or_name_draws_other_scenes(change: dict[str, object]) -> None:
    assert hash_split(replace(SHAPES, **change)) != hash_split(SHAPES)


def test_the_coco_file_describes_the_pictures(tmp_path: Path) -> None:
    info = write_coco_dataset(SHAPES, tmp_path / "shapes")
    document = json.loads(info.instances.read_text())
    assert [category["name"] for category in document["categories"]] == list(SHAPE_NAMES)
    assert (len(document["images"]), len(document["annotations"])) == (info.num_images, info.num_objects)
    for row in document["images"]:
        with Image.open(info.images / row["file_name"]) as picture:
            assert (picture.size, picture.mode) == ((row["width"], row["height"]), "RGB")
    for row in document["annotations"]:
        x, y, width, height = row["bbox"]
        assert x >= 0
        assert y >= 0
        assert width > 0
        assert height > 0
        assert x + width <= SHAPES.width
        assert y + height <= SHAPES.height


def test_counts_range_from_empty_to_the_maximum() -> None:
    counts = {len(render_scene(replace(DIGITS, max_objects=3), index).objects) for index in range(40)}
    assert counts == {0, 1, 2, 3}


def test_overlap_stays_below_the_limit_and_objects_are_sorted() -> None:
    for index in range(20):
        boxes = [tuple(int(v) for v in item.points) for item in render_scene(DIGITS, index).objects]
        assert all(box_overlap(a, b) <= DIGITS.max_iou for i, a in enumerate(boxes) for b in boxes[:i])
        assert [(y, x) for x, y, _, _ in boxes] == sorted((y, x) for x, y, _, _ in boxes)


def test_a_shape_fills_its_box_and_nothing_outside_changes() -> None:
    settings = replace(SHAPES, backgrounds=("flat",), min_objects=1, max_objects=1)
    scene = render_shapes_scene(settings, 3)
    x1, y1, x2, y2 = (int(v) for v in scene.objects[0].points)
    painted = np.any(scene.image != scene.image[0 if y1 > 0 else -1, 0 if x1 > 0 else -1], axis=2)
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (x1, y1, x2, y2)


def test_the_box_of_a_digit_follows_its_ink() -> None:
    settings = replace(DIGITS, backgrounds=("flat",), min_objects=1, max_objects=1, contrast=(1.0, 1.0))
    for index in range(5):
        scene = render_digits_scene(settings, index)
        x1, y1, x2, y2 = (int(v) for v in scene.objects[0].points)
        painted = np.any(scene.image != scene.image[0 if y1 > 0 else -1, 0 if x1 > 0 else -1], axis=2)
        assert not painted[:y1].any()
        assert not painted[y2:].any()
        assert not painted[:, :x1].any()
        assert not painted[:, x2:].any()
        assert painted[y1].any()
        assert painted[y2 - 1].any()
        assert painted[:, x1].any()
        assert painted[:, x2 - 1].any()


def test_a_dense_scene_holds_up_to_sixty_objects() -> None:
    dense = replace(SHAPES, width=384, height=320, min_objects=60, max_objects=60, min_side=12, max_side=28)
    assert 55 <= len(render_scene(dense, 0).objects) <= 60


def test_outlines_lie_on_the_border_of_their_boxes() -> None:
    scene = render_scene(replace(SHAPES, with_polygons=True, min_objects=6), 1)
    for item, ring in zip(scene.objects, scene.rings, strict=True):
        assert ring is not None
        assert (min(ring[::2]), min(ring[1::2]), max(ring[::2]), max(ring[1::2])) == item.points


def test_polygons_are_written_as_segmentations(tmp_path: Path) -> None:
    info = write_coco_dataset(replace(SHAPES, with_polygons=True), tmp_path / "polygons")
    rows = json.loads(info.instances.read_text())["annotations"]
    assert rows
    assert all(len(row["segmentation"]) == 1 and len(row["segmentation"][0]) >= 6 for row in rows)


def test_train_and_val_share_no_original_sample_and_no_part_of_a_photograph() -> None:
    (train, _), (val, _) = load_samples("train"), load_samples("val")
    assert (len(train), len(val)) == (1437, 360)
    for left, right, whole in zip(load_photos("train"), load_photos("val"), (640, 640), strict=True):
        assert left.width + right.width == whole


def test_every_class_has_a_name() -> None:
    assert category_names(SHAPES) == SHAPE_NAMES
    assert len(set(SHAPE_NAMES)) == 24
    assert category_names(DIGITS) == DIGIT_NAMES
    assert set(load_samples("val")[1].tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_objects": 3, "max_objects": 2}, "min_objects=3"),
        ({"min_side": 100, "max_side": 300}, "max_side=300"),
        ({"backgrounds": ()}, "no backgrounds"),
        ({"kind": "digits", "with_polygons": True}, "only shapes have outlines"),
    ],
    ids=["count", "side", "background", "outline"],
)
def test_settings_that_no_scene_can_meet_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(SHAPES, **change)


def test_an_unknown_split_is_named_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no split 'nope'; use one of .*shapes-val"):
        load_split("nope")


def test_scenes_that_are_not_those_of_the_quoted_scores_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are not those that scores are quoted for"):
        write_coco_dataset(SHAPES, tmp_path / "shapes", sha256="0" * 64)
    assert not list(tmp_path.iterdir())
