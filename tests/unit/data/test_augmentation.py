from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from coordexp.data.augmentation import Augmentation, Colour, Crop, ZoomOut, augment, move_objects
from coordexp.data.convert import to_norm1000, to_pixels
from coordexp.geometry.affine import AxisMap, PlaneMap
from coordexp.geometry.bins import MAX_BIN
from coordexp.geometry.polygons import is_canonical
from coordexp.types.records import DetObject, Record

CROP = Augmentation(crop=Crop(probability=1, min_scale=0.6, min_coverage=0.0), min_visible=0.0)
ZOOM = Augmentation(zoom_out=ZoomOut(probability=1, min_scale=0.5, fill=(0, 0, 0)))
EVERYTHING = Augmentation(
    hflip=0.5,
    vflip=0.5,
    crop=Crop(probability=0.5, min_scale=0.6, min_coverage=0.3),
    zoom_out=ZoomOut(probability=0.5, min_scale=0.5, fill=(0, 0, 0)),
    colour=Colour(probability=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02),
)
WAYS = {"hflip": Augmentation(hflip=1.0), "vflip": Augmentation(vflip=1.0), "crop": CROP, "zoom-out": ZOOM, "all": replace(EVERYTHING, colour=None)}


def make_record(objects: list[DetObject], *, width: int = 96, height: int = 64) -> Record:
    return Record("train:1", "a.png", width, height, tuple(objects), "pixel")


def drawn(item: DetObject, *, width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    ImageDraw.Draw(image).rectangle(item.points, fill="white")
    return image


def coloured_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Corner pixels of what is white: at least half, so that interpolated borders count as their nearer side."""
    ys, xs = np.nonzero(np.asarray(image.convert("L")) >= 128)
    return (int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())) if xs.size else None


@st.composite
def pictures(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    width, height = draw(st.sampled_from([(96, 64), (64, 96), (80, 80)]))
    x, y = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
    return width, height, (x, y, draw(st.integers(x + 8, width - 1)), draw(st.integers(y + 8, height - 1)))


@pytest.mark.parametrize("way", WAYS)
@given(picture=pictures(), seed=st.integers(0, 10_000))
def test_a_box_follows_its_pixels(way: str, picture: tuple[int, int, tuple[int, int, int, int]], seed: int) -> None:
    width, height, box = picture
    item = DetObject("white", "bbox_2d", box)
    image, record = augment(drawn(item, width=width, height=height), make_record([item], width=width, height=height), WAYS[way], seed=seed)
    assert image.size == (record.width, record.height) == (width, height)
    found = coloured_box(image)
    if found is None or not record.objects:
        # at most a sliver stays behind: less than min_visible, or thinner than a pixel
        assert not record.objects or min(np.subtract(to_pixels(record).objects[0].points[2:], to_pixels(record).objects[0].points[:2])) <= 1
        return
    assert np.abs(np.subtract(to_pixels(record).objects[0].points, found)).max() <= 1 + 0.5 * width / MAX_BIN


@pytest.mark.parametrize("way", WAYS)
@given(picture=pictures(), seed=st.integers(0, 10_000))
def test_a_polygon_follows_its_pixels(way: str, picture: tuple[int, int, tuple[int, int, int, int]], seed: int) -> None:
    """A diamond. Every coloured pixel lies in the moved outline or within a pixel of it, and every pixel deeper inside is coloured."""
    width, height, (x1, y1, x2, y2) = picture
    item = DetObject("white", "poly", ((x1 + x2) // 2, y1, x2, (y1 + y2) // 2, (x1 + x2) // 2, y2, x1, (y1 + y2) // 2))
    source = Image.fromarray((outside_by(item.points, width, height) <= 0).astype(np.uint8) * 255).convert("RGB")
    image, record = augment(source, make_record([item], width=width, height=height), WAYS[way], seed=seed)
    if not record.objects:
        return
    points = record.objects[0].points
    assert is_canonical(points)
    # cut at the border of a crop it would have more vertices, which a crop may not give to a lone polygon
    assert len(points) <= len(item.points)
    found, distance = np.asarray(image.convert("L")) >= 128, outside_by(to_pixels(record).objects[0].points, width, height)
    assert distance[found].max(initial=-np.inf) <= 1.1
    assert distance[~found].min(initial=np.inf) >= -1.1


def outside_by(ring: Sequence[float], width: int, height: int) -> np.ndarray:
    """[H, W]: how far each pixel centre lies outside a convex clockwise ring (negative: inside), as the largest distance to the line of an edge."""
    vertices = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    edges = np.roll(vertices, -1, axis=0) - vertices
    ys, xs = np.mgrid[:height, :width]
    sides = [((x - xs) * dy - (y - ys) * dx) / np.hypot(dx, dy) * -1.0 for (x, y), (dx, dy) in zip(vertices, edges, strict=True) if (dx, dy) != (0, 0)]
    return np.max(sides, axis=0)


@given(seed=st.integers(0, 10_000), num_objects=st.integers(0, 6))
def test_every_result_is_a_valid_record_that_is_not_longer(seed: int, num_objects: int) -> None:
    generator = random.Random(seed)
    objects: list[DetObject] = []
    for number in range(num_objects):
        x, y = generator.randint(0, 94), generator.randint(0, 62)
        if number % 2:
            objects.append(DetObject("box", "bbox_2d", (x, y, generator.randint(x, 95), generator.randint(y, 63))))
        else:
            objects.append(DetObject("ring", "poly", tuple(generator.randint(0, 63) for _ in range(2 * generator.randint(3, 7)))))
    record = to_norm1000(make_record(objects))
    _, changed = augment(Image.new("RGB", (96, 64)), record, EVERYTHING, seed=seed)
    assert changed.coord_space == "norm1000"
    assert sum(len(item.points) for item in changed.objects) <= sum(len(item.points) for item in record.objects)
    for item in changed.objects:
        assert all(isinstance(value, int) and 0 <= value <= MAX_BIN for value in item.points)
        assert is_canonical(item.points) if item.kind == "poly" else item.points[0] < item.points[2] and item.points[1] < item.points[3]


def test_mirrored_twice_is_the_same_to_the_last_bin() -> None:
    record = to_norm1000(make_record([DetObject("a", "bbox_2d", (3, 5, 40, 60)), DetObject("b", "poly", (10, 1, 30, 20, 2, 33))]))
    image = Image.effect_noise((96, 64), 50).convert("RGB")
    box = record.objects[0].points
    once = augment(image, record, WAYS["hflip"], seed=0)
    twice = augment(*once, WAYS["hflip"], seed=0)
    assert once[1].objects[0].points == (MAX_BIN - box[2], box[1], MAX_BIN - box[0], box[3])
    assert (twice[1], twice[0].tobytes()) == (record, image.tobytes())


def test_the_same_seed_gives_the_same_picture_and_another_one_another() -> None:
    image = Image.effect_noise((96, 64), 50).convert("RGB")
    record = make_record([DetObject("a", "bbox_2d", (3, 5, 40, 60))])
    first, again, *others = (augment(image, record, EVERYTHING, seed=seed) for seed in (1, 1, 2, 3, 4))
    assert (first[0].tobytes(), first[1]) == (again[0].tobytes(), again[1])
    assert len({picture.tobytes() for picture, _ in (first, *others)}) > 1


def test_an_object_that_leaves_the_picture_is_removed_and_a_cut_one_is_clipped() -> None:
    record = make_record(
        [DetObject("left", "bbox_2d", (0, 0, 10, 10)), DetObject("cut", "bbox_2d", (40, 0, 60, 10)), DetObject("in", "bbox_2d", (70, 5, 80, 9))]
    )
    moved = move_objects(record, PlaneMap(x=AxisMap(1.0, -50.0)), min_visible=0.3)
    assert [(item.desc, item.points) for item in moved] == [("cut", (0.0, 0.0, 10.0, 10.0)), ("in", (20.0, 5.0, 30.0, 9.0))]
    assert [item.desc for item in move_objects(record, PlaneMap(x=AxisMap(1.0, -50.0)), min_visible=0.6)] == ["in"]


def test_a_crop_keeps_enough_of_the_objects_or_the_picture_stays_whole() -> None:
    item = DetObject("corner", "bbox_2d", (0, 0, 6, 6))
    image = drawn(item, width=96, height=64)
    strict = Augmentation(crop=Crop(probability=1, min_scale=0.3, min_coverage=1.0))
    for seed in range(60):
        _, record = augment(image, make_record([item]), strict, seed=seed)
        assert [kept.desc for kept in record.objects] == ["corner"]
    everything_goes = replace(strict, crop=Crop(probability=1, min_scale=0.3, min_coverage=0.0))
    assert any(not augment(image, make_record([item]), everything_goes, seed=seed)[1].objects for seed in range(60))


def test_colour_leaves_geometry_and_size_alone() -> None:
    record = to_norm1000(make_record([DetObject("a", "bbox_2d", (3, 5, 40, 60))]))
    image = Image.effect_noise((96, 64), 50).convert("RGB")
    strong = Augmentation(colour=Colour(probability=1, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2))
    changed, same = augment(image, record, strong, seed=1)
    assert same == record
    assert changed.size == image.size
    assert changed.tobytes() != image.tobytes()


def test_without_anything_to_do_picture_and_record_stay() -> None:
    record = to_norm1000(make_record([DetObject("a", "bbox_2d", (3, 5, 40, 60))]))
    image = Image.new("RGB", (96, 64), "red")
    assert augment(image, record, Augmentation(), seed=5) == (image, record)
