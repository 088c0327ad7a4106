"""Imports by several processes: the same files, counts and errors as by one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.data.importers import run
from coordexp.data.importers.coco import import_coco
from coordexp.data.importers.hugging_face import HfColumns, import_hugging_face
from coordexp.data.importers.lvis import import_lvis
from coordexp.data.importers.options import ImportOptions
from coordexp.data.importers.yolo import import_yolo
from coordexp.types.errors import DataError

WIDTH, HEIGHT, NUM_IMAGES = 40, 30, 7


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_BATCH", 2)


@pytest.fixture
def raw(tmp_path: Path, paint: Callable[..., Path]) -> Path:
    """Seven pictures, of which the first is listed again at the end, in COCO's form and in YOLO's."""
    names = [f"{number}.png" for number in range(NUM_IMAGES)]
    rows: list[dict[str, Any]] = []
    for name in names:
        paint(tmp_path / "raw/images" / name, WIDTH, HEIGHT)
        (tmp_path / "raw/labels").mkdir(exist_ok=True)
        (tmp_path / "raw/labels" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.5\n")
    for number in range(3 * NUM_IMAGES):
        ring = [number, 2, 38, 2, 50, 12]
        fields = {"bbox": [number % 5, 2, 38, 10], "segmentation": [ring], "iscrowd": int(number % 6 == 5)}
        rows.append({"id": number, "image_id": number * 5 % NUM_IMAGES, "category_id": number % 2, **fields})
    images = [
        {"id": number, "width": WIDTH, "height": HEIGHT, "file_name": name, "coco_url": f"http://x.org/images/{name}"} for number, name in enumerate(names)
    ]
    document = {"images": [*images, images[0] | {"id": 99}], "annotations": rows, "categories": [{"id": 0, "name": "cät"}, {"id": 1, "name": " dog "}]}
    (tmp_path / "raw/coco.json").write_text(json.dumps(document))
    (tmp_path / "raw/data.yaml").write_text("path: .\ntrain: images\nnames: [cat]\n")
    return tmp_path / "raw"


def by_one_and_by_two(raw: Path, work: Callable[..., Any]) -> Any:
    """What one process gives, proven to be what two give: the summary and every file, or the error."""

    def outcome(workers: int) -> Any:
        output = raw.parent / "out/a.jsonl"
        try:
            summary = work(output=output, workers=workers)
        except DataError as error:
            assert not output.parent.exists()
            return str(error).replace(f"{raw}/", "")
        files = {str(path.relative_to(output.parent)): (path.read_bytes(), path.stat().st_nlink) for path in output.parent.rglob("*") if path.is_file()}
        shutil.rmtree(output.parent)
        return summary, files

    one, two = outcome(1), outcome(2)
    assert one == two
    return one


def coco(raw: Path, **options: Any) -> Callable[..., Any]:
    def work(**rest: Any) -> Any:
        return import_coco(raw / "coco.json", images=raw / "images", options=ImportOptions(**options), **rest)

    return work


def test_coco(raw: Path) -> None:
    summary, files = by_one_and_by_two(raw, coco(raw, geometry="poly", max_objects=2, over_limit="largest", min_side=5.0))
    assert summary.sentence() == (
        "8 images (1 without objects), 14 objects, 3 crowd regions skipped, 18 clamped to the border, 4 objects left out, beyond 2 of an image, "
        "7 labels with outer spaces, stripped, 1 records about an image that an earlier record is about, 7 images linked"
    )
    assert summary.labels == {"cät": 8, "dog": 6}
    assert len(files) == 9


def test_lvis_with_images_that_are_left_out(raw: Path) -> None:
    (raw / "images/2.png").unlink()
    (raw / "images/5.png").write_bytes(b"no picture")
    options = ImportOptions(skip_bad_images=True)
    summary, files = by_one_and_by_two(raw, lambda **rest: import_lvis(raw / "coco.json", images=raw, options=options, **rest))
    assert (summary.num_images, summary.num_linked, summary.skipped_images) == (6, 5, {"missing": 1, "unreadable": 1})
    assert files["a.jsonl"][0].count(b'"neg_categories":[]') == 6


def test_yolo(raw: Path) -> None:
    (raw / "labels/3.txt").unlink()
    summary, _ = by_one_and_by_two(raw, lambda **rest: import_yolo(raw / "data.yaml", split="train", **rest))
    assert (summary.num_images, summary.num_objects, summary.notes["images without a label file"]) == (7, 6, 1)


def test_pictures_that_come_with_the_annotations(raw: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"image": str(raw / f"images/{number}.png"), "objects": {"bbox": [[1, 2, 3, 4]] * number, "category": ["a"] * number}} for number in range(5)]
    datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).save_to_disk(str(raw / "saved"))
    columns, options = HfColumns(box_format="xywh"), ImportOptions(max_objects=3)
    summary, files = by_one_and_by_two(raw, lambda **rest: import_hugging_face(str(raw / "saved"), columns=columns, options=options, **rest))
    assert (summary.num_images, summary.num_written, len(files)) == (4, 4, 6)


def test_the_first_error_in_the_order_of_the_source_is_the_one_that_is_said(raw: Path) -> None:
    document = json.loads((raw / "coco.json").read_text())
    document["annotations"][5 * 3 % 7 + 7]["bbox"] = [1, 1, -3, 5]
    (raw / "coco.json").write_text(json.dumps(document))
    assert "annotations[8] (id 8): bbox [1.0, 1.0, -3.0, 5.0] has a negative width or height" in by_one_and_by_two(raw, coco(raw))
    (raw / "images/6.png").unlink()
    assert "annotations[8]" in by_one_and_by_two(raw, coco(raw))
    (raw / "images/1.png").unlink()
    assert "coco.json: images[1] (id 1): 2 of 8 images are missing in" in by_one_and_by_two(raw, coco(raw))


def test_an_error_of_the_reader_comes_after_those_of_the_images_before_it(raw: Path) -> None:
    work = lambda **rest: import_yolo(raw / "data.yaml", split="train", **rest)  # noqa: E731
    (raw / "labels/3.txt").write_text("cat 0.5\n")
    assert "labels/3.txt:1:" in by_one_and_by_two(raw, work)
    (raw / "images/2.png").write_bytes(b"no picture")
    assert "images/2.png" in by_one_and_by_two(raw, work)


def test_nothing_left_is_the_same_error(raw: Path) -> None:
    assert "no image is left: 0 images" in by_one_and_by_two(raw, coco(raw, max_objects=1, part="train", val_share=0.99))
