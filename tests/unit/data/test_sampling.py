"""Draws of records: the same for the same seed, a fair share of every stratum."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data.jsonl import read_records, write_records
from coordexp.data.sampling import allot, sample_file
from coordexp.types.errors import DataError
from coordexp.types.records import DetObject, Record


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """100 records: 80 with cats, 15 with a cat and a dog, 4 without objects, 1 with many zebras."""
    labels = ["c"] * 80 + ["cd"] * 15 + [""] * 4 + ["z" * 9]
    records = [
        Record("", f"{number}.png", 8, 8, tuple(DetObject(label, "bbox_2d", (0, 0, 4, 4)) for label in own), "pixel") for number, own in enumerate(labels)
    ]
    write_records(tmp_path / "train.jsonl", records)
    return tmp_path / "train.jsonl"


def drawn(source: Path, num: int, **options: Any) -> list[Record]:
    sample_file(source, source.with_name("sample.jsonl"), num=num, **options)
    return read_records(source.with_name("sample.jsonl"))


def images(records: list[Record]) -> list[str]:
    return [record.image for record in records]


def test_a_draw_is_in_order_and_a_function_of_the_seed(source: Path) -> None:
    first = images(drawn(source, 20, seed=3))
    assert first == images(drawn(source, 20, seed=3)) != images(drawn(source, 20, seed=4))
    assert first == sorted(first, key=lambda name: int(name.removesuffix(".png")))
    assert len(set(first)) == 20


def test_the_rest_is_what_was_not_drawn(source: Path) -> None:
    sample = images(drawn(source, 30, rest=source.with_name("rest.jsonl")))
    rest = images(read_records(source.with_name("rest.jsonl")))
    assert sorted(sample + rest) == sorted(images(read_records(source)))


def test_every_stratum_gets_its_share_and_rare_ones_at_least_one(source: Path) -> None:
    by_label = Counter("".join(sorted({item.desc for item in record.objects})) for record in drawn(source, 10, strata="label"))
    assert by_label == {"c": 7, "cd": 1, "": 1, "z": 1}
    by_count = Counter(len(record.objects) for record in drawn(source, 50, strata="num_objects"))
    assert by_count == {1: 40, 2: 7, 0: 2, 9: 1}
    assert len(drawn(source, 2, strata="label")) == 2
    assert len(drawn(source, 100, strata="label")) == 100


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.data())
def test_shares_add_up_and_never_exceed_what_there_is(sizes: list[int], data: st.DataObject) -> None:
    num = data.draw(st.integers(1, sum(sizes)))
    counts = allot(num, sizes)
    assert sum(counts) == num
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    if num >= len(sizes):
        assert min(counts) >= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num": 101}, "101 records are asked for, but there are 100; ask for fewer"),
        ({"num": 0}, "0 records are asked for"),
        ({"num": 5, "rest": Path("elsewhere/rest.jsonl")}, "the output must lie in the folder of its source"),
    ],
)
def test_what_cannot_be_drawn_is_said(source: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        drawn(source, options.pop("num"), **options)
    with pytest.raises(DataError, match="the output would replace its source"):
        sample_file(source, source, num=5)
    with pytest.raises(DataError, match="the sample and the rest would be one file"):
        sample_file(source, source.with_name("a.jsonl"), num=5, rest=source.with_name("a.jsonl"))
