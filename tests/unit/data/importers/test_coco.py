"""Import of a miniature COCO file with every odd case that real ones hold, compared with pycocotools object by object."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from coordexp.data.importers.coco import import_coco
from coordexp.data.importers.options import ImportOptions
from coordexp.data.jsonl import read_records
from coordexp.data.paths import resolve_image
from coordexp.geometry.masks import mask_iou, ring_to_mask
from coordexp.types.errors import DataError, OutputError

WIDTH, HEIGHT = 64, 48
RING_MASK = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
RING_MASK[10:20, 30:45] = 1
RING_MASK[13:15, 33:36] = 0
RING_MASK[40:42, 2:4] = 1


def packed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}


def annotation(number: int, image: int, bbox: list[float], category: int = 1, **fields: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0} | fields


def document() -> dict[str, Any]:
    ring = [10, 10, 30, 10, 30, 30, 20, 18, 10, 30]
    return {
        "info": {"description": "miniature"},
        "images": [
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 3, "file_name": "deep/b.jpg", "width": WIDTH, "height": HEIGHT, "license": 1},
            {"id": 9, "file_name": "empty.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [
            annotation(1, 3, [10, 10, 20, 20], segmentation=[ring]),
            annotation(2, 7, [30, 10, 15, 10], segmentation=packed(RING_MASK), category=5),
            annotation(3, 7, [30.25, 10.5, 15.5, 9.25], segmentation=uncompressed(RING_MASK)),
            annotation(4, 7, [44, 30, 20, 18], segmentation=[[44, 30, 64, 30, 64, 48]]),
            annotation(5, 7, [-2, 5, 10, 0], segmentation=[[-2, 5, 8, 5, 3, 5]]),
            annotation(6, 3, [0, 0, 64, 48], iscrowd=1, segmentation=uncompressed(RING_MASK)),
            annotation(7, 3, [1, 1, 30, 30], segmentation=[[1, 1, 3, 1, 3, 3], [31, 31, 11, 31, 11, 11, 31, 11, 31, 31]], category=5),
        ],
        "categories": [{"id": 1, "name": "chat écaillé", "supercategory": "animal"}, {"id": 5, "name": "猫"}],
    }


def turn() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def write(folder: Path, content: dict[str, Any]) -> Path:
    for image in document()["images"]:
        path = folder / "raw" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":  # stored on its side
            Image.new("RGB", (HEIGHT, WIDTH), "gray").save(path, exif=turn())
        else:
            Image.new("L" if path.name == "a.png" else "RGB", (WIDTH, HEIGHT), "gray").save(path)
    path = folder / "instances_mini.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8", newline="\r\n")
    return path


def imported(folder: Path, content: dict[str, Any], **options: Any) -> Any:
    return import_coco(write(folder, content), images=folder / "raw", output=folder / "out" / "mini.jsonl", options=ImportOptions(**options))


def error_of(folder: Path, content: dict[str, Any], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        imported(folder, content, **options)
    assert not (folder / "out").exists()
    return str(caught.value).replace(f"{folder}/", "")


def test_every_box_equals_what_pycocotools_reads_up_to_clamping(tmp_path: Path) -> None:
    imported(tmp_path, document())
    coco = COCO(str(tmp_path / "instances_mini.json"))
    records = read_records(tmp_path / "out" / "mini.jsonl")
    assert [record.metadata["image_id"] for record in records] == [7, 3, 9]
    for record in records:
        theirs = coco.loadAnns(coco.getAnnIds(imgIds=record.metadata["image_id"], iscrowd=False))
        assert [item.desc for item in record.objects] == [coco.cats[row["category_id"]]["name"] for row in theirs]
        for item, row in zip(record.objects, theirs, strict=True):
            x, y, width, height = row["bbox"]
            expected = np.clip([x, y, x + width, y + height], 0, [WIDTH - 1, HEIGHT - 1] * 2)
            assert item.kind == "bbox_2d"
            assert item.points == pytest.approx(expected.tolist(), abs=0)


def test_the_summary_counts_every_odd_case(tmp_path: Path) -> None:
    summary = imported(tmp_path, document())
    assert (summary.num_images, summary.num_empty_images, summary.num_objects, summary.num_crowd) == (3, 1, 6, 1)
    assert (summary.num_clamped, summary.num_zero_area, summary.num_multi_part, summary.num_with_holes) == (2, 1, 0, 0)
    assert (summary.num_linked, summary.num_copied, summary.skipped) == (3, 0, Counter())
    assert summary.sentence() == ("3 images (1 without objects), 6 objects, 1 crowd regions skipped, 2 clamped to the border, 1 without area, 3 images linked")


def test_every_polygon_covers_what_pycocotools_rasterizes(tmp_path: Path) -> None:
    summary = imported(tmp_path, document(), geometry="poly")
    coco = COCO(str(tmp_path / "instances_mini.json"))
    first, second, _ = read_records(tmp_path / "out" / "mini.jsonl")
    whole = coco.annToMask(coco.anns[1])
    assert (ring_to_mask(second.objects[0].points, width=WIDTH, height=HEIGHT) == whole).all()
    filled = np.zeros_like(RING_MASK)
    filled[10:20, 30:45] = 1
    for item in first.objects[:2]:
        assert item.points == (30, 10, 45, 10, 45, 20, 30, 20)
        assert (ring_to_mask(item.points, width=WIDTH, height=HEIGHT) == filled).all()
    assert first.objects[2].points == (44, 30, 63, 30, 63, 47)
    assert second.objects[1].points == (11, 11, 31, 11, 31, 31, 11, 31)
    assert (summary.num_multi_part, summary.num_with_holes, summary.num_clamped, summary.num_zero_area) == (3, 2, 2, 1)
    iou = mask_iou([second.objects[0].points], [(10, 10, 30, 10, 30, 30, 20, 18, 10, 30)], width=WIDTH, height=HEIGHT)
    assert iou.item() == 1.0


def test_images_from_elsewhere_are_linked_below_the_name_of_the_split(tmp_path: Path) -> None:
    imported(tmp_path, document())
    names = [record.image for record in read_records(tmp_path / "out" / "mini.jsonl")]
    assert names == ["images/mini/a.png", "images/mini/deep/b.jpg", "images/mini/empty.png"]
    for name, source in zip(names, ["a.png", "deep/b.jpg", "empty.png"], strict=True):
        assert resolve_image(tmp_path / "out", name).samefile(tmp_path / "raw" / source)


def test_images_inside_the_folder_of_the_output_stay_where_they_are(tmp_path: Path) -> None:
    summary = import_coco(write(tmp_path, document()), images=tmp_path / "raw", output=tmp_path / "mini.jsonl")
    assert [record.image for record in read_records(tmp_path / "mini.jsonl")] == ["raw/a.png", "raw/deep/b.jpg", "raw/empty.png"]
    assert (summary.num_linked, summary.num_copied) == (0, 0)


def test_an_import_can_be_repeated_but_never_replaces_a_folder_of_somebody_else(tmp_path: Path) -> None:
    imported(tmp_path, document())
    before = (tmp_path / "out" / "mini.jsonl").read_bytes()
    imported(tmp_path, document())
    assert (tmp_path / "out" / "mini.jsonl").read_bytes() == before
    (tmp_path / "out2" / "images" / "mini").mkdir(parents=True)
    (tmp_path / "out2" / "images" / "mini" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists and was not made by an import; choose another output"):
        import_coco(tmp_path / "instances_mini.json", images=tmp_path / "raw", output=tmp_path / "out2" / "mini.jsonl")
    assert (tmp_path / "out2" / "images" / "mini" / "holiday.png").read_bytes() == b"mine"


def change(section: str, position: int, **fields: Any) -> dict[str, Any]:
    content = document()
    row = content[section][position] | fields
    content[section][position] = {key: value for key, value in row.items() if value is not ...}
    return content


WRONG = "instances_mini.json: "
PARTS = "; a COCO instances file has images, annotations and categories"
MEND = "; correct the annotation, or skip such ones with --skip-invalid"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param({}, f"{WRONG[:-2]}: missing field `images`{PARTS}", id="not-coco"),
        pytest.param(change("images", 1, width=...), f"{WRONG}images[1]: missing field `width`{PARTS}", id="image-without-width"),
        pytest.param(change("images", 1, width=0), f"{WRONG}images[1] (id 3): 0x48 pixels; correct width and height", id="image-of-no-width"),
        pytest.param(change("annotations", 2, bbox=[1, 2, 3]), f"{WRONG}annotations[2].bbox: expected `array` of length 4{PARTS}", id="short-bbox"),
        pytest.param(change("annotations", 2, bbox=[1, 2, 3, "x"]), f"{WRONG}annotations[2].bbox[3]: expected `float`, got `str`{PARTS}", id="text-in-bbox"),
        pytest.param(
            change("annotations", 2, category_id=4),
            f"{WRONG}annotations[2] (id 3): category_id 4 is not among the categories; add the category or take the annotation out",
            id="unknown-category",
        ),
        pytest.param(
            change("annotations", 2, image_id=4),
            f"{WRONG}annotations[2] (id 3): image_id 4 is not among the images; add the image or take the annotation out",
            id="unknown-image",
        ),
        pytest.param(change("annotations", 2, id=1), f"{WRONG}annotations[2]: the id 1 is used by annotations[0] too; make the ids unique", id="annotation-id"),
        pytest.param(change("images", 2, id=7), f"{WRONG}images[2]: the id 7 is used by images[0] too; make the ids unique", id="image-id"),
        pytest.param(change("categories", 1, id=1), f"{WRONG}categories[1]: the id 1 is used by categories[0] too; make the ids unique", id="category-id"),
        pytest.param(change("categories", 1, name=" "), f"{WRONG}categories[1] (id 5): a category without a name; give it a name", id="category-without-name"),
        pytest.param(change("annotations", 0, bbox=...), f"{WRONG}annotations[0] (id 1): no bbox{MEND}", id="no-bbox"),
        pytest.param(
            change("annotations", 0, bbox=[5, 5, -3, 2]),
            f"{WRONG}annotations[0] (id 1): bbox [5.0, 5.0, -3.0, 2.0] has a negative width or height{MEND}",
            id="negative-width",
        ),
        pytest.param(
            change("annotations", 0, bbox=[70, 5, 3, 2]),
            f"{WRONG}annotations[0] (id 1): (70, 5) to (73, 7) lies outside the image of 64x48{MEND}",
            id="outside",
        ),
        pytest.param(
            change("images", 0, file_name="gone.png"),
            f"{WRONG}images[0] (id 7): 1 of 3 images are missing in raw, first gone.png; check that this is the folder that the file names are relative to,"
            " or leave such images out with --skip-bad-images",
            id="missing-image",
        ),
        pytest.param(
            change("images", 0, width=65),
            f"{WRONG}images[0] (id 7): the image raw/a.png is 64x48 (upright), but the annotations say 65x48;"
            " use the images that the annotations were made for",
            id="another-size",
        ),
    ],
)
def test_a_broken_file_is_one_sentence_and_nothing_is_written(tmp_path: Path, content: dict[str, Any], sentence: str) -> None:
    assert error_of(tmp_path, content) == sentence


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        pytest.param([], "polygons are asked for, but the annotation has no segmentation", id="empty-list"),
        pytest.param(..., "polygons are asked for, but the annotation has no segmentation", id="no-segmentation"),
        pytest.param([[1, 2, 3, 4]], "a polygon of the segmentation is not a flat list of 3 or more x, y pairs", id="two-points"),
        pytest.param([[1, 2, 3, 4, "5", 6]], "a polygon of the segmentation is not a flat list of 3 or more x, y pairs", id="text"),
        pytest.param({"size": [64, 48], "counts": [3072]}, "the segmentation is not a mask {size: [48, 64], counts: ...}", id="size-swapped"),
        pytest.param({"size": [48, 64], "counts": [5, 6]}, "the segmentation cannot be decoded (the runs fill 11 of 3072 pixels)", id="short-runs"),
        pytest.param({"size": [48, 64], "counts": [3072]}, "the mask of the segmentation has no pixel", id="empty-mask"),
    ],
)
def test_a_segmentation_that_cannot_become_a_polygon_is_an_error_or_counted(tmp_path: Path, segmentation: Any, reason: str) -> None:
    content = change("annotations", 0, segmentation=segmentation)
    assert error_of(tmp_path, content, geometry="poly") == f"{WRONG}annotations[0] (id 1): {reason}{MEND}"
    summary = imported(tmp_path, content, geometry="poly", skip_invalid=True)
    assert summary.skipped.total() == 1
    assert summary.num_objects == 5
    assert f"1 skipped as {next(iter(summary.skipped))}" in summary.sentence()


@pytest.mark.parametrize(("text", "what"), [(b"{", "not JSON in UTF-8"), (b'{"images": [{"file_name": "\xff"}]}', "not JSON in UTF-8")])
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, text: bytes, what: str) -> None:
    (tmp_path / "broken.json").write_bytes(text)
    with pytest.raises(DataError, match=what):
        import_coco(tmp_path / "broken.json", images=tmp_path, output=tmp_path / "out.jsonl")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the COCO file does not exist; check the path"):
        import_coco(tmp_path / "none.json", images=tmp_path, output=tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"the image folder .*nowhere does not exist; check the path"):
        import_coco(write(tmp_path, document()), images=tmp_path / "nowhere", output=tmp_path / "out.jsonl")


def test_a_file_name_cannot_reach_out_of_the_image_folder(tmp_path: Path) -> None:
    assert "leaves the folder" in error_of(tmp_path, change("images", 0, file_name="../instances_mini.json"))


def test_an_image_turned_by_exif_whose_boxes_were_drawn_unturned_is_explained(tmp_path: Path) -> None:
    path = write(tmp_path, document())
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "raw" / "deep" / "b.jpg", exif=turn())
    with pytest.raises(DataError, match=r"is 48x64 \(upright\), but the annotations say 64x48; .* remove the EXIF orientation"):
        import_coco(path, images=tmp_path / "raw", output=tmp_path / "out" / "mini.jsonl")


def test_leading_folders_of_file_names_can_be_left_out_as_objects365_needs(tmp_path: Path) -> None:
    content = document()
    for image, name in zip(content["images"], ["images\\v1\\a.png", "images/v1/deep/b.jpg", "images/v1/empty.png"], strict=True):
        image["file_name"] = name
    options: dict[str, Any] = {"images": tmp_path / "raw", "output": tmp_path / "out" / "mini.jsonl"}
    import_coco(write(tmp_path, content), strip_components=2, **options)
    assert [record.image for record in read_records(tmp_path / "out" / "mini.jsonl")] == [
        f"images/mini/{name}" for name in ("a.png", "deep/b.jpg", "empty.png")
    ]
    with pytest.raises(DataError, match=r"images\[0\] \(id 7\): .* has no 3 leading folders; lower --strip-components"):
        import_coco(tmp_path / "instances_mini.json", strip_components=3, **options)
    content["images"][0]["file_name"] = ""
    with pytest.raises(DataError, match=r"images\[0\] \(id 7\): no file_name; a file of LVIS is imported by 'coordexp data import lvis'"):
        import_coco(write(tmp_path, content), **options)
