"""Every line that is not blank is there, in order, with its record or the reason."""

import json
from pathlib import Path

import pytest

from coordexp.pipeline.source import iter_source, survey_source
from coordexp.types.errors import DataError

GOOD = {"images": ["a.png"], "width": 10, "height": 10, "coord_space": "norm1000", "objects": [{"desc": "cat", "bbox_2d": [1, 2, 3, 4]}]}


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_bad_lines_keep_their_place(tmp_path: Path) -> None:
    bad = {**GOOD, "objects": [{"desc": "cat", "bbox_2d": [9, 2, 3, 4]}]}
    lines = list(iter_source(write(tmp_path / "val.jsonl", GOOD, "", "{broken", bad, "[1]", GOOD)))
    assert [(line.number, line.record is not None) for line in lines] == [(1, True), (3, False), (4, False), (5, False), (6, True)]
    assert lines[2].violations[0].what == "x2=3 < x1=9"
    assert lines[4].record.id == "val:6"


def test_a_limit_counts_lines_and_leaves_the_categories_whole(tmp_path: Path) -> None:
    other = {**GOOD, "objects": [{"desc": "ant", "bbox_2d": [1, 2, 3, 4]}]}
    path = write(tmp_path / "val.jsonl", GOOD, GOOD, other)
    assert len(list(iter_source(path, limit=2))) == 2
    survey = survey_source(path, limit=2)
    assert (survey.num_lines, survey.categories) == (2, ("ant", "cat"))


def test_plain_integers_without_a_space_refuse_the_whole_file(tmp_path: Path) -> None:
    unnamed = {key: value for key, value in GOOD.items() if key != "coord_space"}
    path = write(tmp_path / "val.jsonl", GOOD, unnamed)
    with pytest.raises(DataError, match=r"val\.jsonl:2: coord_space: missing"):
        survey_source(path)
    assert survey_source(path, coord_space="norm1000").num_lines == 2


@pytest.mark.parametrize(("name", "what"), [("none.jsonl", "does not exist"), ("empty.jsonl", "no records")])
def test_a_file_without_records_is_refused(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match=what):
        survey_source(tmp_path / name)
