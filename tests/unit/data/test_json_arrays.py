"""An array of a JSON file element by element: the same elements as decoding the whole, wherever the file is cut into pieces, and little memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data import json_arrays
from coordexp.data.coco_file import read_coco
from coordexp.data.json_arrays import ArrayScanner, JsonArray

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
    assert json.loads(scanner.rest) == {**before, "wanted": [0] * len(elements), **{f"z{key}": value for key, value in after.items()}}
    array = JsonArray(path, [start for _, start, _ in found], [len(element) for _, _, element in found], json.loads)
    assert list(array) == array[:] == elements


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
    assert scanner.rest == b'{"b": [0], "a": [0, 0], "b": [{"x": 4}]}'


def write_coco(path: Path, count: int) -> Path:
    ring = [[float(value) for value in range(40)]]
    rows = [{"id": number, "image_id": 0, "category_id": 1, "bbox": [1.5, 2, 3, 4], "area": 12.0, "segmentation": ring} for number in range(count)]
    images = [{"id": 0, "file_name": "a.png", "width": 64, "height": 48}]
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}))
    return path


def test_a_coco_file_takes_some_dozens_of_bytes_an_annotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_arrays, "_PIECE", 10_000)
    peaks: list[int] = []
    for count in (1_000, 4_000):
        path = write_coco(tmp_path / "instances.json", count)
        tracemalloc.start()
        coco = read_coco(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (len(coco.annotations), coco.annotations[count - 1].id, len(coco.by_image[0])) == (count, count - 1, count)
    assert (peaks[1] - peaks[0]) / 3_000 < 150
