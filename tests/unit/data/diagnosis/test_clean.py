"""The doctor has nothing to say about sound data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordexp.data.convert import to_space
from coordexp.data.diagnosis.diagnose import diagnose_file
from coordexp.data.diagnosis.labels import tidy
from coordexp.data.diagnosis.orders import check_equal_boxes, check_xywh_disorder, check_xywh_sums
from coordexp.data.diagnosis.ranges import check_ranges
from coordexp.data.diagnosis.survey import survey_file
from coordexp.data.jsonl import read_records, write_records
from coordexp.types.records import CoordSpace, DetObject, Record

NAMES = ("shapes", "digits", "crowds", "five", "polygons", "long tail", "noise")


@pytest.mark.parametrize("space", ["pixel", "norm1000", "token"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_in_sound_data(write_clean: Callable[[str, CoordSpace], Path], name: str, space: CoordSpace) -> None:
    diagnosis = diagnose_file(write_clean(name, space))
    assert diagnosis.findings == ()
    assert diagnosis.alignment.better_reading() is None
    assert diagnosis.alignment.fits == (name != "noise")


def test_boxes_that_were_drawn_a_little_over_the_border_are_no_suspicion(write_clean: Callable[[str, CoordSpace], Path]) -> None:
    path = write_clean("shapes", "pixel")
    records = [
        replace(record, objects=tuple(replace(item, points=tuple(value + 4 for value in item.points)) for item in record.objects))
        for record in read_records(path)
    ]
    write_records(path, records)
    boxes = survey_file(path).boxes
    assert (boxes.values[:, 2] > boxes.width + 1).mean() > 0.01
    assert check_ranges(survey_file(path)) == []


def test_numbers_alone_raise_no_suspicion_in_sound_data_of_any_size_and_shape(tmp_path: Path, long_count: Callable[[int, int], int]) -> None:
    """Without the pictures, which would have a say: sets of 1 to 60 records, objects anywhere, in the middle, of any size, in every space."""
    for seed in range(long_count(60, 5000)):
        path = write_random(tmp_path, np.random.default_rng(seed))
        survey = survey_file(path)
        found = [*check_xywh_disorder(survey), *check_ranges(survey), *check_equal_boxes(survey), *check_xywh_sums(survey)]
        assert found == [], seed


def write_random(folder: Path, rng: np.random.Generator) -> Path:
    spread, many = rng.choice([0.15, 0.3, 1.0]), int(rng.integers(1, 8))
    sizes = [(int(rng.integers(60, 2000)), int(rng.integers(60, 2000))) for _ in range(int(rng.integers(1, 4)))]
    space = ("pixel", "norm1000", "token")[int(rng.integers(3))]
    records: list[Record] = []
    for number in range(int(rng.integers(1, 61))):
        width, height = sizes[int(rng.integers(len(sizes)))]
        objects: list[DetObject] = []
        for _ in range(int(rng.integers(0, many + 1))):
            centre = rng.uniform(0, 1, 2) if spread == 1.0 else rng.normal(0.5, spread, 2)
            half = np.minimum(rng.lognormal(-2.2, 0.8, 2), 0.5)
            low, high = np.clip(centre - half, 0, 0.98), np.clip(centre + half, 0.02, 1)
            points = tuple(float(value) for value in np.concatenate([low, high]) * np.array([width, height, width, height]))
            objects.append(DetObject("thing", "bbox_2d", points))
        records.append(to_space(Record("", f"{number}.png", width, height, tuple(objects), "pixel"), space))
    write_records(folder / "random.jsonl", records)
    return folder / "random.jsonl"


@pytest.mark.parametrize("label", ["cat", "wine glass", "Katze auf dem Sofa", "人", "👩‍🚀", "bow_(decorative)", "t-shirt", "café"])
def test_ordinary_names_of_any_language_are_tidy(label: str) -> None:
    assert tidy(label) == label
