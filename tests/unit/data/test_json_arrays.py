"""An array of a JSON file element by element: the same elements as decoding the whole, wherever the file is cut into pieces, and little memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data import json_arrays, row_index
from coordexp.data.coco_file import decode_annotation, read_coco
from coordexp.data.json_arrays import ArrayScanner

TEXTS = st.text(alphabet='ab"\\\\{}[],:é人 \n', max_size=6)
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
OBJECTS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=4)


@given(before=st.dictionaries(TEXTS, VALUES, max_size=2), elements=OBJECTS, after=st.dictionaries(TEXTS, VALUES, max_size=2), piece=st.integers(1, 40))
def test_elements_and_the_rest_are_those_of_the_whole_wherever_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, Any], elements: list[Any], after: dict[str, Any], piece: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_bytes(json.dumps({**before, "wanted": elements, **{f"z{key}": value for key, value in after.items()}}, ensure_ascii=piece % 2 == 0).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "_PIECE", piece)
        scanner = ArrayScanner(path, ["wanted"])
        found = list(scanner)
    assert [json.loads(element) for _, _, element in found] == elements
    assert json.loads(scanner.rest) == {**before, "wanted": [0] * bool(elements), **{f"z{key}": value for key, value in after.items()}}
    content = path.read_bytes()
    assert all(content[start : start + len(element)] == element for _, start, element in found)


def test_arrays_of_the_same_name_deeper_down_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"info": {"wanted": [{"a": 1}]}, "list": [{"wanted": [{"a": 2}]}], "x": "wanted", "wanted": [{"a": {"wanted": [{}]}}, 7]}'
    )
    scanner = ArrayScanner(tmp_path / "a.json", ["wanted"])
    assert [element for _, _, element in scanner] == [b'{"a": {"wanted": [{}]}}']
    assert scanner.rest.endswith(b'"wanted": [0, 7]}')


def test_a_string_that_does_not_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"wanted": [{"a": "no end}]}')
    with pytest.raises(ValueError, match="a string does not end"):
        list(ArrayScanner(tmp_path / "a.json", ["wanted"]))


def test_several_arrays_are_told_apart_and_a_key_that_comes_again_is_left_in_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": [{"x": 1}], "a": [{"y": 2}, {"y": 3}], "b": [{"x": 4}]}')
    scanner = ArrayScanner(tmp_path / "a.json", ["a", "b"])
    assert [(key, element) for key, _, element in scanner] == [("b", b'{"x": 1}'), ("a", b'{"y": 2}'), ("a", b'{"y": 3}')]
    assert scanner.rest == b'{"b": [0], "a": [0], "b": [{"x": 4}]}'
    assert scanner.num_runs == {"a": 1, "b": 1}


def write_coco(path: Path, count: int) -> Path:
    ring = [[float(value) for value in range(40)]]
    rows = [{"id": number, "image_id": 0, "category_id": 1, "bbox": [1.5, 2, 3, 4], "area": 12.0, "segmentation": ring} for number in range(count)]
    images = [{"id": 0, "file_name": "a.png", "width": 64, "height": 48}]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}))
    return path


def test_a_coco_file_takes_no_memory_for_each_annotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_arrays, "_PIECE", 10_000)
    monkeypatch.setattr(row_index, "_ROWS", 100)
    peaks: list[int] = []
    for count in (1_000, 4_000):
        path = write_coco(tmp_path / "instances.json", count)
        tracemalloc.start()
        coco = read_coco(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        (row,) = coco.rows()
        assert (coco.num_images, row.position, len(row.annotations), decode_annotation(row.annotations[-1][1]).id) == (1, 0, count, count - 1)
    assert (peaks[1] - peaks[0]) / 3_000 < 3


@pytest.mark.parametrize("between", [", 0,", " ", ",,", ", ,", ",", " \n,\t "])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_what_stands_between_two_elements_is_left_unless_it_is_one_comma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str, piece: int) -> None:
    monkeypatch.setattr(json_arrays, "_PIECE", piece)
    (tmp_path / "a.json").write_text(f'{{"wanted": [{{"a": 1}}{between}{{"a": 2}}]}}')
    scanner = ArrayScanner(tmp_path / "a.json", ["wanted"])
    assert len(list(scanner)) == 2
    num = 1 if between.strip() == "," else 2
    assert (scanner.rest.decode(), scanner.num_runs["wanted"]) == (f'{{"wanted": [{"0" if num == 1 else f"0{between}0"}]}}', num)
