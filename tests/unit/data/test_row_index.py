"""Places of images and annotations on disk: found again in the order of the document, wherever it lists them; ids that cannot be right are noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordexp.data import row_index
from coordexp.data.coco_file import read_coco
from coordexp.data.row_index import DocumentRow, RowIndex
from coordexp.types.errors import OutputError

IDS = st.integers(-(2**63), 2**63 - 1) | st.text(alphabet="a1 é\0'", max_size=3)


@given(images=st.lists(IDS, unique=True, max_size=6), picks=st.lists(st.integers(0, 5), max_size=12), rows=st.integers(1, 4))
def test_every_annotation_is_with_its_image_in_the_order_of_the_document(
    tmp_path_factory: pytest.TempPathFactory, images: list[int | str], picks: list[int], rows: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "index.bin"
    path.write_bytes(bytes(range(40)))
    owners = [images[pick] for pick in picks if pick < len(images)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_index, "_ROWS", rows)
        index = RowIndex()
        for number, owner in enumerate(owners):
            index.add_annotation(number, owner, 10 + number, 2)
        for number, name in enumerate(images):
            index.add_image(name, number, 1)
        assert index.seal()
    expected = [
        DocumentRow(number, bytes([number]), tuple((place, bytes([10 + place, 11 + place])) for place, owner in enumerate(owners) if owner == name))
        for number, name in enumerate(images)
    ]
    assert list(index.rows(path)) == list(index.rows(path)) == expected


@pytest.mark.parametrize(
    ("images", "annotations", "is_sound"),
    [
        ([1, "1"], [(1, "1"), ("1", 1)], True),
        ([1, 1], [], False),
        ([1], [(5, 1), (5, 1)], False),
        ([1], [(5, "1")], False),
        ([], [], True),
    ],
    ids=["number-and-text", "image-twice", "annotation-twice", "unknown-image", "empty"],
)
def test_ids_are_unique_and_images_known(images: list[int | str], annotations: list[tuple[int | str, int | str]], is_sound: bool) -> None:
    index = RowIndex()
    for name in images:
        index.add_image(name, 0, 1)
    for name, image in annotations:
        index.add_annotation(name, image, 0, 1)
    assert index.seal() == is_sound


@pytest.mark.parametrize("rows", [100, 10_000], ids=["while-filling", "while-sorting"])
def test_a_full_disk_for_temporary_files_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(row_index, "_ROWS", rows)
    monkeypatch.setattr(row_index, "_TABLES", row_index._TABLES + "PRAGMA max_page_count = 3;")
    images = [{"id": number, "file_name": "a.png", "width": 4, "height": 4} for number in range(2_000)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    with pytest.raises(OutputError, match=r"cannot be kept \(database or disk is full\); let TMPDIR name a folder with free space"):
        read_coco(tmp_path / "coco.json")
