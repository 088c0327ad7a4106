"""What every importer can be asked for: the options act on the one path that all formats share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordexp.data.importers.options import ImportOptions, read_label_map
from coordexp.data.importers.run import import_source
from coordexp.data.importers.source import Source, SourceImage, SourceObject
from coordexp.data.jsonl import read_records
from coordexp.geometry.masks import mask_iou, ring_to_mask
from coordexp.geometry.polygons import is_canonical, ring_to_box
from coordexp.geometry.simplify import convex_hull, simplify_ring
from coordexp.types.errors import DataError
from coordexp.types.progress import NoProgress
from coordexp.types.records import Record

SIDE = 64


def circle(num: int, *, radius: float = 20.0, at: float = 32.0) -> tuple[float, ...]:
    angles = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return tuple(float(value) for pair in zip(at + radius * np.cos(angles), at + radius * np.sin(angles), strict=True) for value in pair)


def box(label: str, *corners: float) -> SourceObject:
    return SourceObject(label, f"test: {label}", box=corners)


@pytest.fixture
def take(tmp_path: Path, paint: Callable[..., Path]) -> Callable[..., tuple[list[Record], Any]]:
    """Imports images of 64 x 64 pixels with the given objects: records and summary."""

    def run(*objects: list[SourceObject], **options: Any) -> tuple[list[Record], Any]:
        for number in range(len(objects)):
            paint(tmp_path / f"raw/{number}.png", SIDE, SIDE)
        images = [SourceImage(f"{number}.png", f"image {number}", items) for number, items in enumerate(objects)]
        source = Source("test", tmp_path / "raw", lambda: iter(images))
        summary = import_source(source, output=tmp_path / "out/a.jsonl", options=ImportOptions(**options))
        return read_records(tmp_path / "out/a.jsonl"), summary

    return run


def descs(record: Record) -> list[str]:
    return [item.desc for item in record.objects]


MANY = [box("small", 0, 0, 4, 4), box("large", 0, 0, 40, 40), box("middle", 0, 0, 9, 9), box("large", 1, 1, 41, 41)]


def test_an_image_with_too_many_objects_is_dropped_or_keeps_some_of_them_in_order(take: Callable[..., Any]) -> None:
    records, summary = take(MANY, MANY[:2], max_objects=2)
    assert [record.image for record in records] == ["images/a/1.png"]
    assert summary.sentence() == "1 images (0 without objects), 2 objects, 1 images left out, of more than 2 objects, 1 images linked"
    records, summary = take(MANY, MANY[:2], max_objects=2, over_limit="largest")
    assert [descs(record) for record in records] == [["large", "large"], ["small", "large"]]
    records, _ = take(MANY, max_objects=3, over_limit="largest")
    assert descs(records[0]) == ["large", "middle", "large"]
    records, summary = take(MANY, max_objects=3, over_limit="first")
    assert descs(records[0]) == ["small", "large", "middle"]
    assert summary.left_out == {"objects left out, beyond 3 of an image": 1}


def outline(label: str, *rings: tuple[float, ...]) -> SourceObject:
    return SourceObject(label, f"test: {label}", rings=rings)


BEYOND = {
    "corner": (40, 40, 100, 44, 90, 110),
    "all around": (32, -50, 120, 32, 32, 120, -50, 32),
    "fork": (30, 8, 30, 16, -30, 16, -30, 48, 30, 48, 30, 56, -40, 56, -40, 8),
    "vertices outside only": (-20, 30, 90, 10, 90, 50),
}


@pytest.mark.parametrize("ring", BEYOND.values(), ids=BEYOND)
def test_of_an_outline_past_the_border_what_is_visible_is_taken(take: Callable[..., Any], ring: tuple[float, ...]) -> None:
    (record,), summary = take([outline("a", ring)], geometry="poly")
    found = record.objects[0].points
    large = ring_to_mask([value + SIDE for value in ring], width=3 * SIDE, height=3 * SIDE)
    visible, mine = large[SIDE : 2 * SIDE, SIDE : 2 * SIDE], ring_to_mask(found, width=SIDE, height=SIDE)
    assert (visible != mine)[: SIDE - 1, : SIDE - 1].mean() < 0.005  # the last pixel is the end: COCO's x = W is clamped to W-1
    assert is_canonical(found)
    assert (summary.num_clamped, summary.num_zero_area) == (1, 0)
    boxes, _ = take([outline("a", ring)])
    x1, y1, x2, y2 = boxes[0].objects[0].points
    assert (x1, y1, x2, y2) == pytest.approx(ring_to_box(found), abs=0.5)


def test_the_largest_visible_part_is_taken_and_the_hull_is_that_of_visible_parts(take: Callable[..., Any]) -> None:
    parts = outline("a", (-300, 0, 6, 0, 6, 6, -300, 6), (20, 20, 40, 20, 40, 40, 20, 40), (80, 80, 99, 80, 99, 99))
    assert take([parts], geometry="poly")[0][0].objects[0].points == (20, 20, 40, 20, 40, 40, 20, 40)
    hull = take([parts], geometry="poly", outline="hull")[0][0].objects[0].points
    assert ring_to_box(hull) == (0, 0, 40, 40)


def test_what_only_touches_the_border_lies_outside_and_what_has_no_extent_does_not(take: Callable[..., Any]) -> None:
    beside = [box("right", 64, 5, 70, 9), box("left", -5, 5, 0, 9), box("below", 5, 64, 9, 80), outline("ring", (64, 0, 90, 0, 90, 30))]
    kept = [box("sliver", 63.5, 5, 70, 9), box("line", 64, 5, 64, 9), outline("flat", (-2, 5, -1, 5, 8, 5))]
    for item in beside[:3]:
        with pytest.raises(DataError, match="lies outside the image of 64x64"):
            take([item])
    (record,), summary = take([*beside, *kept[:2]], skip_invalid=True)
    assert [item.points for item in record.objects] == [(63, 5, 63, 9), (63, 5, 63, 9)]
    assert (summary.skipped, summary.num_zero_area, summary.num_clamped) == ({"outside": 4}, 2, 2)
    (record,), summary = take([beside[3], kept[2]], geometry="poly", skip_invalid=True)
    assert [item.points for item in record.objects] == [(0, 5, 0, 5, 8, 5)]
    assert (summary.skipped, summary.num_zero_area) == ({"outside": 1}, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_an_outline_that_cannot_be_computed_with_is_skipped(take: Callable[..., Any], value: float) -> None:
    (record,), summary = take([outline("a", (0, 0, 9, 0, value, 9)), box("b", 0, 0, 9, 9)], geometry="poly", skip_invalid=True, skip_bad_images=True)
    assert record.objects == ()
    assert summary.skipped.total() == 2


def test_small_objects_are_left_out_by_their_shorter_side_within_the_image(take: Callable[..., Any]) -> None:
    records, summary = take([box("edge", 60, 0, 90, 20), box("thin", 0, 0, 50, 3.5), box("fits", 0, 0, 5, 5)], min_side=5)
    assert descs(records[0]) == ["fits"]
    assert summary.left_out == {"objects left out, smaller than 5 pixels": 2}


def test_labels_are_renamed_and_left_out_by_a_map(take: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("small: tiny thing\nlarge: null\n", encoding="utf-8-sig")
    labels = read_label_map(tmp_path / "labels.yaml")
    records, summary = take(MANY, labels=labels)
    assert (descs(records[0]), summary.left_out) == (["tiny thing", "middle"], {"objects left out by the label map": 2})
    records, summary = take(MANY, labels=labels, only_mapped=True)
    assert descs(records[0]) == ["tiny thing"]
    assert summary.left_out["objects left out, their label not in the label map"] == 1
    assert dict(summary.labels) == {"tiny thing": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a\n", "not a mapping of labels"),
        ("1: a\n", "1: 'a' is not a pair of texts; put labels that look like"),
        ("a: ' '\n", "not a pair"),
        ("a: [\n", "not YAML"),
    ],
)
def test_a_broken_label_map_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_label_map(tmp_path / "labels.yaml")
    with pytest.raises(DataError, match="the label map cannot be read"):
        read_label_map(tmp_path / "none.yaml")


def test_the_two_parts_of_a_source_share_no_image_and_lose_none(take: Callable[..., Any]) -> None:
    images = [[box("a", 0, 0, 9, 9)]] * 60
    parts = {part: {record.image for record in take(*images, part=part, val_share=0.3, seed=4)[0]} for part in ("train", "val", "all")}
    assert parts["train"] | parts["val"] == parts["all"]
    assert not parts["train"] & parts["val"]
    assert 8 <= len(parts["val"]) <= 30
    assert {record.image for record in take(*images, part="val", val_share=0.3, seed=5)[0]} != parts["val"]


def test_a_polygon_with_many_vertices_is_simplified_within_the_bound_or_refused(take: Callable[..., Any]) -> None:
    ring = circle(200)
    records, summary = take([SourceObject("disc", "test", rings=(ring,))], geometry="poly", max_vertices=16, max_deviation=2.0)
    (found,) = records[0].objects
    assert len(found.points) <= 32
    assert summary.num_simplified == 1
    assert mask_iou([found.points], [ring], width=SIDE, height=SIDE).item() > 0.95
    with pytest.raises(DataError, match=r"an outline of 200 vertices would move by more than 0\.1 pixels with 8 of them"):
        take([SourceObject("disc", "test", rings=(ring,))], geometry="poly", max_vertices=8, max_deviation=0.1)


def test_no_vertex_of_the_source_is_farther_from_the_simpler_outline_than_allowed() -> None:
    generator = np.random.default_rng(0)
    for num in (30, 80, 200):
        wobbly = np.asarray(circle(num)) + generator.normal(0, 0.4, 2 * num)
        ring = tuple(float(value) for value in wobbly)
        simpler = simplify_ring(ring, max_vertices=20, max_deviation=3.0)
        assert simpler is not None
        assert len(simpler) <= 40
        vertices = set(zip(ring[0::2], ring[1::2], strict=True))
        assert set(zip(simpler[0::2], simpler[1::2], strict=True)) <= vertices
        corners = np.asarray(simpler).reshape(-1, 2)
        starts, ends = corners, np.roll(corners, -1, axis=0)
        for point in wobbly.reshape(-1, 2):
            along = np.clip(((point - starts) * (ends - starts)).sum(1) / ((ends - starts) ** 2).sum(1), 0, 1)
            assert np.hypot(*(starts + along[:, None] * (ends - starts) - point).T).min() <= 3.0 + 1e-9
    assert simplify_ring(circle(6), max_vertices=6, max_deviation=0.0) == circle(6)


def test_parts_become_the_largest_of_them_or_their_convex_hull(take: Callable[..., Any]) -> None:
    parts = ((0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0), (20.0, 0.0, 30.0, 0.0, 30.0, 4.0))
    item = SourceObject("pair", "test", rings=parts)
    assert take([item], geometry="poly")[0][0].objects[0].points == parts[0]
    records, summary = take([item], geometry="poly", outline="hull")
    assert records[0].objects[0].points == (0, 0, 30, 0, 30, 4, 10, 10, 0, 10)
    assert summary.num_multi_part == 1
    assert convex_hull([(0.0, 0.0, 1.0, 1.0, 2.0, 2.0)]) is None
    line = SourceObject("line", "test", rings=((0.0, 0.0, 1.0, 1.0, 2.0, 2.0),))
    assert take([line], geometry="poly", outline="hull")[0][0].objects[0].points == (0, 0, 1, 1, 2, 2)


def test_nothing_left_is_an_error_that_says_what_went(take: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"test: no image is left: 0 images .*, 1 images left out, of more than 2 objects; check the path and the options"):
        take(MANY, max_objects=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_vertices": 2}, "max_vertices: 2 is fewer than 3 vertices"),
        ({"val_share": 1.0}, "val_share: 1.0 is not between 0 and 1"),
        ({"max_objects": 0}, "max_objects: 0 is not a limit"),
        ({"only_mapped": True}, "only_mapped: no label map is given"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        ImportOptions(**options)


def test_the_images_are_in_their_place_before_the_record_file_is(tmp_path: Path, paint: Callable[..., Path]) -> None:
    paint(tmp_path / "raw/0.png", SIDE, SIDE)
    output = tmp_path / "out/a.jsonl"

    class Obstacle(NoProgress):
        """Comes when the last image has been taken."""

        def track(self, items: Any, description: str, *, total: int | None = None, count: Any = None) -> Any:
            yield from items
            output.mkdir()

    source = Source("test", tmp_path / "raw", lambda: iter([SourceImage("0.png", "image 0", [box("a", 0, 0, 9, 9)])]))
    with pytest.raises(IsADirectoryError):
        import_source(source, output=output, options=ImportOptions(), progress=Obstacle())
    assert (tmp_path / "out/images/a/0.png").is_file()


def test_records_are_written_while_the_source_is_read(tmp_path: Path, paint: Callable[..., Path]) -> None:
    """At no time is more than one image of the source alive."""
    import gc
    import weakref

    paint(tmp_path / "raw/0.png", SIDE, SIDE)
    alive: list[Any] = []
    most = 0

    class Marked(list[SourceObject]):
        pass

    def images() -> Any:
        nonlocal most
        for number in range(50):
            objects = Marked([box("a", 0, 0, 9, 9)])
            alive.append(weakref.ref(objects))
            yield SourceImage("0.png", f"image {number}", objects)
            del objects
            gc.collect(0)
            most = max(most, sum(found() is not None for found in alive))

    import_source(Source("test", tmp_path / "raw", images), output=tmp_path / "out/a.jsonl", options=ImportOptions())
    assert most <= 1
    assert len((tmp_path / "out/a.jsonl").read_text().splitlines()) == 50
    assert json.loads((tmp_path / "out/a.jsonl").read_text().splitlines()[0])["images"] == ["images/a/0.png"]
