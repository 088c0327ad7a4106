"""COCO files as input: what is an error, what is set aside and counted, and what a crowd region means for f1_det."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.evaluate import EvalSettings, evaluate_coco
from coordexp.types.errors import DataError

BOX = [10, 10, 40, 40]


def _truth(*annotations: Any, **more: Any) -> dict[str, Any]:
    """Two images of 100 x 80, the categories 7 'cat' and 9 'dog'."""
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 80} for number in (4, 2)]
    numbered = [{"id": place, "area": 1600, "iscrowd": 0, **item} if isinstance(item, dict) else item for place, item in enumerate(annotations, start=1)]
    return {"images": images, "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": " cat "}], "annotations": numbered, **more}


def _object(category: int = 7, box: Any = BOX, image: int = 4, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, **more}


def _result(category: int = 7, box: Any = BOX, image: int = 4, *, score: float = 0.5, **more: Any) -> dict[str, Any]:
    return _object(category, box, image, score=score, **more)


def test_our_own_numbers_stand_beside_those_of_coco(write_coco: Any) -> None:
    result = evaluate_coco(*write_coco(_truth(_object(), _object(9, image=2)), [_result(), _result(9, [60, 10, 20, 20], image=2, score=0.4)]))
    assert result.det.total.at(0.5) == (1, 1, 1)
    assert {"bbox_AP", "f1_det@0.50", "f1_det_miou", "f1ish@0.50_f1_full_micro"} <= result.metrics.keys()
    assert [(row.name, row.counts.num_gt) for row in result.per_class] == [("cat", 1), ("dog", 1)]
    assert result.labels.categories == ("cat", "dog")
    assert result.protocol.label == "prompt=unknown · labels=category ids · f1ish scope=annotated · pixels=as written · scores=model · AP@0.50:0.95"


def test_boxes_keep_their_fractions_and_may_leave_the_image(write_coco: Any) -> None:
    data = evaluate_coco(*write_coco(_truth(_object(box=[0.25, 0, 10.5, 10])), [_result(box=[-5.5, 0, 200, 10])])).data
    assert data.gt.boxes.tolist() == [[0.25, 0, 10.75, 10]]
    assert data.pred.boxes.tolist() == [[-5.5, 0, 194.5, 10]]


def test_indices_are_positions_in_the_lists_of_the_files(write_coco: Any, tmp_path: Path) -> None:
    paths = write_coco(_truth(_object(image=2), _object()), [_result(image=2), _result(9, [0, 0, 5, 5]), _result()])
    evaluate_coco(*paths).save(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/matches.jsonl").read_text().splitlines()]
    assert [(row["image_id"], [(match["pred_idx"], match["gt_idx"]) for match in row["matches"]]) for row in rows] == [(4, [(2, 1)]), (2, [(0, 0)])]


def test_categories_without_objects_are_rows_of_the_table(write_coco: Any, tmp_path: Path) -> None:
    evaluate_coco(*write_coco(_truth(_object(9)), [_result(9)])).save(tmp_path / "out")
    rows = (tmp_path / "out/per_class.csv").read_text().splitlines()
    assert [row.split(",")[2:4] for row in rows[1:]] == [["0", "0"], ["1", "1"]]
    assert rows[1].startswith("cat,-1.0,")


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (_result(8), "category_id"),
        (_result(image=99), "image_id"),
        (_object(), "score"),
        ({**_result(), "score": None}, "score"),
        ({**_result(), "score": float("nan")}, "score"),
        ({**_result(), "score": True}, "score"),
        (_result(box=[1, 2, 3]), "bbox"),
        (_result(box=[1, 2, 3, "4"]), "bbox"),
        (_result(box=[1, 2, 3, float("inf")]), "bbox"),
        (_result(box=None), "bbox"),
        ({"image_id": 4, "category_id": 7, "score": 0.5}, "bbox"),
        ({"image_id": 4, "category_id": 7, "score": 0.5, "segmentation": {"size": [80, 100], "counts": "!"}}, "segmentation"),
        ({**_result(), "image_id": "4"}, "image_id"),
        ({**_result(), "category_id": 7.5}, "category_id"),
        ("text", "entry"),
        (None, "entry"),
        ([1], "entry"),
    ],
)
def test_a_bad_result_is_set_aside_with_its_reason(write_coco: Any, item: Any, reason: str) -> None:
    paths = write_coco(_truth(_object()), [_result(), item])
    result = evaluate_coco(*paths)
    assert (len(result.data.pred), result.counters["invalid_results"]) == (1, 1)
    assert result.warnings[0].startswith(f"results.json: 1 of 2 results left out for their {reason} (the first: results[1]: ")
    with pytest.raises(DataError, match=r"results\.json: results\[1\]: "):
        evaluate_coco(*paths, settings=EvalSettings(strict_parse=True))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (_object(8), "category_id"),
        (_object(image=99), "image_id"),
        (_object(box=[1, 2, 3]), "bbox"),
        ({"image_id": 4, "category_id": 7}, "bbox"),
        ({**_object(), "area": "big"}, "area"),
        ({**_object(), "iscrowd": 0.5}, "iscrowd"),
        (7, "entry"),
    ],
)
def test_a_bad_annotation_is_set_aside_with_its_reason(write_coco: Any, item: Any, reason: str) -> None:
    result = evaluate_coco(*write_coco(_truth(_object(), item), [_result()]))
    assert (len(result.data.gt), result.counters["invalid_annotations"]) == (1, 1)
    assert f"left out for their {reason}" in result.warnings[0]
    assert result.metrics["bbox_AP"] == pytest.approx(1.0)


def test_a_bad_entry_is_kept_with_its_image(write_coco: Any, tmp_path: Path) -> None:
    evaluate_coco(*write_coco(_truth(_object()), [_result(), _result(8, image=2)])).save(tmp_path / "out")
    rows = json.loads((tmp_path / "out/per_image.json").read_text())
    assert [row["invalid_pred"] for row in rows] == [
        [],
        [{"reason": "category_id", "raw": {"image_id": 2, "category_id": 8, "bbox": BOX, "score": 0.5}}],
    ]


@pytest.mark.parametrize(
    ("truth", "results", "message"),
    [
        ([_result()], _truth(_object()), r"instances\.json: is a list of results, not a COCO instances file; are --coco-gt and --coco-preds swapped\?"),
        (_truth(_object()), _truth(_object()), r"results\.json: is a COCO instances file, not a list of results; are --coco-gt and --coco-preds swapped\?"),
        (_truth(_object()), {"boxes": []}, r"results\.json: is one object, not a list of results; "),
        (_truth(_object()), "text", r"results\.json: is not a list of entries; "),
        ({"images": [], "annotations": []}, [], r"instances\.json: missing field `categories`; "),
        (_truth(_object(), images=[{"file_name": "a"}]), [], r"instances\.json: images\[0\]: missing field `id`; "),
        (_truth(_object(), annotations={}), [], r"instances\.json: is not a list of entries; "),
        (
            _truth(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
            [],
            r"categories\[1\]: the id 1 is used by categories\[0\] too; make the ids unique",
        ),
        (
            _truth(_object()),
            [_result(image=50), _result(image=51)],
            r"results\[0\]: none of the 2 results can be used, the first: image_id 50 is not among the images",
        ),
        (_truth(_object(3)), [], r"none of the 1 annotations can be used, the first: category_id 3 is not among the categories"),
    ],
)
def test_a_file_of_another_kind_is_one_error(write_coco: Any, truth: Any, results: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_coco(*write_coco(truth, results))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"{", "not JSON in UTF-8"), (b"\xff\xfe", "not JSON in UTF-8"), (b"", "not JSON in UTF-8")],
)
def test_a_file_that_is_not_json_is_one_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json: {message}"):
        evaluate_coco(path, path)


def test_names_with_half_characters_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    paths = tmp_path / "i.json", tmp_path / "r.json"
    truth = _truth(_object())
    truth["images"][0]["file_name"] = "\ud800.jpg"
    paths[0].write_text("\ufeff" + json.dumps(truth), encoding="utf-8")
    paths[1].write_text("\ufeff" + json.dumps([_result()]), encoding="utf-8")
    result = evaluate_coco(*paths)
    result.save(tmp_path / "out")
    assert (result.metrics["bbox_AP"], result.data.images[0].file_name) == (pytest.approx(1.0), "\ufffd.jpg")


def test_no_results_at_all_are_an_ap_of_0(write_coco: Any) -> None:
    result = evaluate_coco(*write_coco(_truth(_object()), []))
    assert (result.metrics["bbox_AP"], result.det.total.at(0.5), result.counters["empty_pred"]) == (0.0, (0, 0, 1), 2)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"area": None}, "1 annotations have no area, that of their box counts"),
        ({"id": None}, "annotations without a usable id were numbered anew"),
        ({"id": 2}, "annotation ids are used twice; each annotation counts, numbered anew"),
    ],
)
def test_what_is_read_otherwise_than_written_is_a_warning(write_coco: Any, change: Any, warning: str) -> None:
    result = evaluate_coco(*write_coco(_truth({**_object(), **change}, _object(9)), [_result(), _result(9)]))
    assert result.warnings == (f"instances.json: {warning}",)
    assert result.metrics["bbox_AP"] == pytest.approx(1.0)


def test_an_image_that_stands_twice_counts_once(write_coco: Any) -> None:
    truth = _truth(_object())
    truth["images"].append(dict(truth["images"][0]))
    result = evaluate_coco(*write_coco(truth, [_result()]))
    assert len(result.data.images) == 2
    assert "1 images have the id of another one" in result.warnings[0]


def test_images_without_size_are_evaluated_by_boxes_and_masks_need_it(write_coco: Any) -> None:
    truth, ring = _truth(_object(segmentation=[[10, 10, 50, 10, 50, 50]])), {"segmentation": [[10, 10, 50, 10, 50, 50]]}
    truth["images"][0] = {"id": 4}
    paths = write_coco(truth, [_result() | ring])
    boxes = evaluate_coco(*paths, settings=EvalSettings(with_segm=False))
    assert (boxes.metrics["bbox_AP"], boxes.counters["missing_size"], boxes.data.images[0].file_name) == (pytest.approx(1.0), 1, "image_4.jpg")
    with pytest.raises(DataError, match=r"instances\.json: images\[0\]: no width or height; masks need the size of every image"):
        evaluate_coco(*paths)


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3]], [["a"]], {"size": [80, 100], "counts": [9000]}, {"size": [3, 3], "counts": [1, 2, 6]}, {"counts": 5}, 5, [[]], "x"],
)
def test_a_mask_that_cannot_be_read_is_its_box_and_a_warning(write_coco: Any, segmentation: Any) -> None:
    square = [[10, 10, 50, 10, 50, 50, 10, 50]]
    paths = write_coco(_truth(_object(segmentation=square)), [_result(segmentation=segmentation), _result(score=0.1, segmentation=square)])
    result = evaluate_coco(*paths)
    assert result.metrics["segm_AP50"] == pytest.approx(1.0)
    assert result.warnings[0].startswith("results.json: 1 results have no mask, their box counts as one (the first: results[0]: ")


def test_f1_det_compares_masks_when_results_have_some(write_coco: Any) -> None:
    lower, upper = [[10, 10, 50, 50, 10, 50]], [[10, 10, 50, 10, 50, 50]]
    truth = _truth(_object(segmentation=lower))
    assert evaluate_coco(*write_coco(truth, [_result(segmentation=upper)])).det.total.at(0.5) == (0, 1, 1)
    assert evaluate_coco(*write_coco(truth, [_result()])).det.total.at(0.5) == (1, 0, 0)


def test_the_protocol_tells_masks_from_boxes(write_coco: Any) -> None:
    ring = [[10, 10, 50, 50, 10, 50]]
    paths = write_coco(_truth(_object(segmentation=ring)), [_result(segmentation=ring)])
    masks, boxes = (evaluate_coco(*paths, settings=EvalSettings(with_segm=with_segm)).protocol for with_segm in (True, False))
    assert (" · iou=masks · " in masks.label, " · iou=masks · " in boxes.label) == (True, False)
    assert masks.differences(boxes) == ("iou_of: masks, boxes",)


@pytest.mark.parametrize(
    ("result", "counts", "ignored"),
    [
        (_result(box=[0, 0, 20, 20]), (0, 0, 1), 1),
        (_result(box=[30, 0, 20, 20]), (0, 0, 1), 1),
        (_result(box=[35, 0, 20, 20]), (0, 1, 1), 0),
        (_result(9, [0, 0, 20, 20]), (0, 1, 1), 0),
        (_result(box=[0, 0, 20, 20], image=2), (0, 1, 1), 0),
        (_result(box=[0, 50, 20, 20]), (1, 0, 0), 0),
    ],
    ids=["inside", "half inside", "less than half inside", "of another category", "in another image", "matches an object"],
)
def test_predictions_in_a_crowd_region_are_ignored(write_coco: Any, result: Any, counts: tuple[int, int, int], ignored: int) -> None:
    crowd, single = _object(box=[0, 0, 40, 70], iscrowd=1, area=2800), _object(box=[0, 50, 20, 20])
    found = evaluate_coco(*write_coco(_truth(crowd, single), [result]))
    assert found.det.total.at(0.5) == counts
    assert (found.counters["crowd_regions"], found.counters["crowd_ignored"]) == (1, ignored)
    assert found.metrics["f1ish@0.50_pred_total"] == 1 - ignored


def test_crowd_regions_with_masks_cover_by_their_pixels(write_coco: Any) -> None:
    triangle = [[0, 0, 60, 60, 0, 60]]
    crowd = _object(box=[0, 0, 60, 60], iscrowd=1, segmentation=triangle)
    results = [
        _result(box=box, segmentation=[[x, y, x + 10, y, x + 10, y + 10, x, y + 10]]) for box in ([45, 0, 10, 10], [5, 45, 10, 10]) for x, y in [box[:2]]
    ]
    assert evaluate_coco(*write_coco(_truth(crowd), results)).counters["crowd_ignored"] == 1
    boxes = [{key: value for key, value in item.items() if key != "segmentation"} for item in results]
    assert evaluate_coco(*write_coco(_truth(crowd), boxes)).counters["crowd_ignored"] == 2


def test_the_ignore_mark_means_nothing_by_the_rules_of_coco(write_coco: Any) -> None:
    result = evaluate_coco(*write_coco(_truth(_object(ignore=1)), [_result()]))
    assert (result.metrics["bbox_AP"], result.det.total.at(0.5)) == (pytest.approx(1.0), (1, 0, 0))


def test_sizes_are_those_of_the_areas_in_the_file(write_coco: Any) -> None:
    det = evaluate_coco(*write_coco(_truth(_object(area=10)), [_result()])).det
    assert (det.by_size["small"].num_gt, det.by_size["medium"].num_gt) == (1, 0)
