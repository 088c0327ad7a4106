"""Parts are whole windows, in order, and together they are everything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.pipeline.shards import Shard, find_shards
from coordexp.types.errors import ConfigError


@given(num_lines=st.integers(1, 500), window=st.integers(1, 40), count=st.integers(1, 30))
def test_parts_are_whole_windows_and_together_everything(num_lines: int, window: int, count: int) -> None:
    ranges = [Shard(index, count).line_range(num_lines=num_lines, window=window) for index in range(1, count + 1)]
    assert [place for places in ranges for place in places] == list(range(num_lines))
    assert all(places.start % window == 0 for places in ranges if len(places))
    sizes = [-(-len(places) // window) for places in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_a_part_takes_its_lines() -> None:
    assert list(Shard.parse("2/3").take("abcdefgh", num_lines=8, window=2)) == ["c", "d"]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no part"):
        Shard.parse(text)


def test_parts_are_found_in_order(tmp_path: Path) -> None:
    for index in (2, 10, 1):
        Shard(index, 10).folder(tmp_path).mkdir(parents=True)
    (tmp_path / "shards" / "notes").mkdir()
    assert [shard.index for shard in find_shards(tmp_path)] == [1, 2, 10]
