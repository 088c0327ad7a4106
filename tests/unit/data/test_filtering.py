"""Filter, sample and merge: what goes is said, what stays keeps its order and its picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from coordexp.data.filtering import FilterSettings, dropped_path, filter_file, filtered_path
from coordexp.data.jsonl import read_records, write_records
from coordexp.data.near_duplicates import NearDuplicates, fingerprint
from coordexp.data.odd_pictures import write_odd_pictures
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record


def texture(seed: int, *, width: int = 160, height: int = 120) -> Image.Image:
    """A picture of soft spots, as photographs have them."""
    spots = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC)


def record(image: str, labels: str = "", *, kind: Any = "bbox_2d") -> Record:
    """One object for each letter, each larger than the one before."""
    points = (0, 0, 8, 0, 8, 8) if kind == "poly" else None
    objects = tuple(DetObject(label, kind, points or (0, 0, 10 + place, 10 + place)) for place, label in enumerate(labels))
    return Record("", image, 160, 120, objects, "pixel")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def run(*records: Record, name: str = "train.jsonl") -> Path:
        for number, item in enumerate(records):
            if not (tmp_path / item.image).exists():
                texture(number).save(tmp_path / item.image)
        write_records(tmp_path / name, records)
        return tmp_path / name

    return run


def kept(summary: Any) -> list[str]:
    return [item.image for item in read_records(summary.output)]


def reasons(summary: Any) -> list[tuple[str, str]]:
    rows = map(json.loads, dropped_path(summary.output).read_text(encoding="utf-8").splitlines())
    return [(row["images"][0], f"{row['reason']}: {row['what']}") for row in rows]


def test_each_rule_drops_what_it_names_and_writes_down_why(write: Callable[..., Path]) -> None:
    source = write(record("a.png", "xy"), record("b.png", "xxxxxxxxxxy"), record("c.png"), record("d.png", "xyz", kind="poly"), record("e.png", "ab"))
    settings = FilterSettings(kind="bbox_2d", min_objects=1, max_objects=20, max_label_share=0.9)
    summary = filter_file(source, settings)
    assert summary.output == source.with_name("train.bbox_only.min1.max20.diverse.jsonl")
    assert kept(summary) == ["a.png", "e.png"]
    assert reasons(summary) == [
        ("b.png", "low diversity: 10 of 11 objects are 'x'"),
        ("c.png", "too few objects: 0 objects"),
        ("d.png", "another geometry: holds a poly"),
    ]
    assert summary.sentence() == "2 records kept, 4 objects, 1 dropped as another geometry, 1 dropped as low diversity, 1 dropped as too few objects"


def test_the_limit_of_objects_drops_the_image_or_cuts_it(write: Callable[..., Path]) -> None:
    source = write(record("a.png", "xyz"), record("b.png", "x"))
    assert kept(filter_file(source, FilterSettings(max_objects=2))) == ["b.png"]
    for rule, labels in (("largest", ["y", "z"]), ("first", ["x", "y"])):
        summary = filter_file(source, FilterSettings(max_objects=2, over_limit=rule))  # type: ignore[arg-type]
        assert [item.desc for item in read_records(summary.output)[0].objects] == labels
        assert (summary.num_cut, summary.num_cut_objects, summary.num_records) == (1, 1, 2)


def test_the_name_of_the_output_keeps_the_ending_of_the_coordinate_space() -> None:
    settings = FilterSettings(kind="bbox_2d", max_objects=60)
    assert filtered_path(Path("lvis/val.coord.jsonl"), settings) == Path("lvis/val.bbox_only.max60.coord.jsonl")


def variants() -> dict[str, Image.Image]:
    picture = texture(1)
    return {
        "resized": picture.resize((320, 240), Image.Resampling.BICUBIC),
        "recompressed": picture,
        "brighter": ImageEnhance.Brightness(picture).enhance(1.05),
    }


def test_recompressed_resized_and_brightened_pictures_are_found_and_others_are_not(tmp_path: Path) -> None:
    index = NearDuplicates(distance=4)
    for seed in range(40):
        path = tmp_path / f"{seed}.png"
        texture(seed).save(path)
        assert index.find(fingerprint(path)) is None
        index.add(fingerprint(path), path.name)
    for name, picture in variants().items():
        picture.save(tmp_path / f"{name}.jpg", quality=60)
        assert index.find(fingerprint(tmp_path / f"{name}.jpg")) == "1.png", name
    texture(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    assert index.find(fingerprint(tmp_path / "mirrored.png")) is None


def test_flat_and_odd_pictures_are_no_duplicates_of_each_other(tmp_path: Path) -> None:
    index = NearDuplicates(distance=4)
    for colour in ("red", "blue", "white", "black"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
    paths = [*sorted(tmp_path.glob("*.png")), *write_odd_pictures(tmp_path)]
    for path in paths:
        assert index.find(fingerprint(path)) is None, path.name
        index.add(fingerprint(path), path.name)
    assert [index.find(fingerprint(path)) for path in paths] == [path.name for path in paths]


@pytest.mark.parametrize("distance", [0, 1, 4, 8])
def test_the_bands_find_what_a_comparison_with_every_image_finds(distance: int) -> None:
    from coordexp.data.near_duplicates import Fingerprint

    generator = np.random.default_rng(distance)
    index = NearDuplicates(distance=distance)
    marks = [Fingerprint(int(value), bytes(48)) for value in generator.integers(0, 2**63, 50)]
    for place, mark in enumerate(marks):
        index.add(mark, str(place))
    for place, mark in enumerate(marks):
        flips = generator.permutation(64)[: int(generator.integers(0, distance + 3))]
        other = Fingerprint(mark.steps ^ sum(1 << int(bit) for bit in flips), bytes(48))
        near = [str(number) for number, known in enumerate(marks) if (known.steps ^ other.steps).bit_count() <= distance]
        assert index.find(other) == (near[0] if near else None), place


def test_duplicates_within_a_file_and_of_another_file_are_dropped(write: Callable[..., Path], tmp_path: Path) -> None:
    for name, seed in (("a.png", 1), ("copy.png", 1), ("b.png", 2), ("held_out.png", 3), ("c.png", 3)):
        texture(seed).save(tmp_path / name)
    val = write(record("held_out.png"), name="val.jsonl")
    source = write(*(record(name, "xy") for name in ("a.png", "copy.png", "b.png", "c.png")))
    summary = filter_file(source, FilterSettings(duplicates=0, against=(val,)))
    assert kept(summary) == ["a.png", "b.png"]
    assert reasons(summary) == [("copy.png", "near duplicate: resembles a.png"), ("c.png", "near duplicate: resembles val.jsonl: held_out.png")]
    two = filter_file(source, FilterSettings(duplicates=0), workers=2, output=tmp_path / "two.jsonl")
    assert kept(two) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "filter: nothing is to be filtered; give at least one rule"),
        ({"duplicates": 9}, r"duplicates: 9 is not within 0\.\.8"),
        ({"max_label_share": 1.0}, "max_label_share: 1.0 is not between 0 and 1"),
        ({"against": (Path("val.jsonl"),)}, "against: other files are given, but duplicates are not looked for"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        FilterSettings(**settings)


def test_nothing_left_and_a_missing_picture_are_errors_that_leave_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    source = write(record("a.png", "x"))
    with pytest.raises(DataError, match="no record is left: 0 records kept, 0 objects, 1 dropped as too few objects; loosen the rules"):
        filter_file(source, FilterSettings(min_objects=2))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"the image .*a.png does not exist"):
        filter_file(source, FilterSettings(duplicates=4))
    with pytest.raises(DataError, match="the output must lie in the folder of its source"):
        filter_file(source, FilterSettings(max_objects=4), output=tmp_path / "out" / "a.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]
