"""Files that are broken at random places: an import works or says one sentence; it never ends with a traceback, and never leaves anything behind."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.data.importers.coco import import_coco
from coordexp.data.importers.lvis import import_lvis
from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.swift import import_swift
from coordexp.data.importers.visual_genome import import_visual_genome
from coordexp.data.importers.voc import import_voc
from coordexp.data.importers.yolo import import_yolo
from coordexp.data.validate import validate_file
from coordexp.types.errors import UserError

SIZE = {"width": 40, "height": 30}
_PIECE = re.compile(rb'-?\d+\.?\d*|"[^"]*"|[A-Za-z_]+|[\[\]{}:,<>]')
_WRONG = (b"null", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}", b"true", b"9" * 21, b"\xff", b"\x00", b"../", b"\\", b",", b'"', b"]", b"1.5", b"\n", b"&x;")

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "coco_url": "http://x.org/raw/a.png", "neg_category_ids": [1], "not_exhaustive_category_ids": [], **SIZE}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 12]]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "segmentation": {"size": [30, 40], "counts": [100, 20, 1080]}},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "segmentation": {"size": [30, 40], "counts": "Wb0a0O1O1O"}},
    ],
    "categories": [{"id": 1, "name": "cat"}],
}
GENOME = [{"image_id": 1, "image_url": "http://x.org/raw/a.png", "objects": [{"object_id": 1, "names": ["cat"], "x": 1, "y": 2, "w": 3, "h": 4}]}]
BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
VOC = f"<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size><object><name>cat</name>{BOX}</object></annotation>"
SWIFT = {
    "messages": [{"role": "user", "content": "<ref-object><bbox><bbox><ref-object><bbox>"}],
    "images": ["a.png"],
    "objects": {"ref": ["cat", "dog"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 9, 9]], "bbox_type": "real"},
}
FILES = {
    "coco.json": json.dumps(COCO),
    "objects.json": json.dumps(GENOME),
    "data.yaml": "path: .\ntrain: images\nnames: [cat, dog]\nkpt_shape: [2, 3]\n",
    "labels/a.txt": "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.6 0.1 0.6 0.8\n",
    "Annotations/a.xml": VOC,
    "ImageSets/Main/val.txt": "a 1\n",
    "rows.jsonl": json.dumps(SWIFT) + "\n",
}
IMPORTS: dict[str, tuple[tuple[str, ...], Callable[..., Any]]] = {
    "coco": (("coco.json",), lambda root, **rest: import_coco(root / "coco.json", images=root / "images", **rest)),
    "lvis": (("coco.json",), lambda root, **rest: import_lvis(root / "coco.json", images=root / "images", **rest)),
    "visual genome": (("objects.json",), lambda root, **rest: import_visual_genome(root / "objects.json", images=root / "images", **rest)),
    "yolo": (("data.yaml", "labels/a.txt"), lambda root, **rest: import_yolo(root / "data.yaml", split="train", **rest)),
    "voc": (("Annotations/a.xml", "ImageSets/Main/val.txt"), lambda root, **rest: import_voc(root, images=root / "images", split="val", **rest)),
    "swift": (("rows.jsonl",), lambda root, **rest: import_swift(root / "rows.jsonl", images=root / "images", **rest)),
    "swift, merged": (("rows.jsonl",), lambda root, **rest: import_swift(root / "rows.jsonl", images=root / "images", merge_rows=True, **rest)),
}


def broken(content: bytes, generator: random.Random) -> bytes:
    """With a piece replaced, inserted or cut off."""
    pieces = list(_PIECE.finditer(content))
    kind = generator.random()
    if kind < 0.65 and pieces:
        piece = generator.choice(pieces)
        return content[: piece.start()] + generator.choice([*_WRONG, generator.choice(pieces).group()]) + content[piece.end() :]
    place = generator.randrange(len(content) + 1)
    return content[:place] + (generator.choice(_WRONG) + content[place:] if kind < 0.9 else b"")


@pytest.mark.parametrize("kind", IMPORTS)
def test_a_file_broken_anywhere_is_imported_or_refused_in_one_sentence(
    kind: str, tmp_path: Path, paint: Callable[..., Path], long_count: Callable[[int, int], int]
) -> None:
    paint(tmp_path / "images/a.png", *SIZE.values())
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    names, run = IMPORTS[kind]
    output = tmp_path / "out" / "a.jsonl"
    sentences: list[str] = []
    for seed in range(long_count(40, 600)):
        generator = random.Random(seed)
        name = generator.choice(names)
        content = FILES[name].encode()
        for _ in range(generator.choice((1, 1, 2))):
            content = broken(content, generator)
        (tmp_path / name).write_bytes(content)
        options = ImportOptions(geometry=generator.choice(("bbox_2d", "poly")), skip_invalid=seed % 2 == 0, skip_bad_images=seed % 3 == 0)
        try:
            run(tmp_path, output=output, options=options)
        except UserError as error:
            sentences.append(str(error))
            assert not output.parent.exists()
        else:
            assert validate_file(output, check_images=True).is_valid
            shutil.rmtree(output.parent)
        (tmp_path / name).write_text(FILES[name])
    assert sentences
    assert [sentence for sentence in sentences if "\n" in sentence] == []
