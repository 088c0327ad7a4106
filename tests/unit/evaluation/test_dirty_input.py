"""Dirty files: whatever stands in a line, the evaluation ends, its files are valid JSON, and every object is either used or kept with a reason."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coordexp.evaluation.columns import COUNTERS
from coordexp.evaluation.evaluate import EvalSettings, evaluate, evaluate_coco
from coordexp.types.errors import DataError, UserError

LINES_A_FILE = 200
NUMBERS = (0, -1, 1, 7.5, -0.0, 1e-320, 1e308, -1e308, 10**25, -(10**400), math.nan, math.inf, -math.inf, 999, 1000, 2**31, 2**63, 1e6, 0.1)
TEXTS = (
    "", " ", "NaN", "inf", "1e999", "1_0", "٣", "<|coord_5|>", "<|coord_1000|>", "<|coord_-1|>", "<|coord_99999999999999999999|>", "12", "-3.5",
    "\ud800", "\udc00x", "é🙂\u2028", "\x00", 'a"b\\c\n', "x" * 20_000, "unknown", "bbox_2d", "poly", "line", "norm1000", "pixel", "token",
)  # fmt: skip
KEYS = (
    "gt", "objects", "pred", "predictions", "width", "height", "image", "images", "coord_mode", "coord_space", "errors", "broken", "finish_reason",
    "type", "points", "points_exact", "bbox_2d", "poly", "line", "desc", "score", "extra", "",
)  # fmt: skip


def clean_record(rng: random.Random) -> dict[str, Any]:
    width, height = rng.choice([(64, 48), (100, 80), (1000, 7)])

    def item() -> dict[str, Any]:
        x, y = rng.randrange(width - 3), rng.randrange(height - 3)
        box = [x, y, rng.randrange(x + 1, width), rng.randrange(y + 1, height)]
        ring = [box[0], box[1], box[2], box[1], box[2], box[3]]
        tokens = [f"<|coord_{value}|>" for value in (10, 20, 500, 700)]
        shape = rng.choice([{"type": "bbox_2d", "points": box}, {"bbox_2d": box}, {"poly": ring}, {"type": "poly", "points": ring}, {"bbox_2d": tokens}])
        more = {"points_exact": [value + 0.25 for value in box]} if shape.get("type") == "bbox_2d" else {}
        return {**shape, **more, "desc": rng.choice(["cat", "dog", "Traffic Light"]), "score": rng.random()}

    gt, pred = ([item() for _ in range(rng.randrange(4))] for _ in range(2))
    return {
        "image": f"{rng.randrange(10**6)}.png",
        "width": width,
        "height": height,
        "coord_mode": rng.choice(["pixel", "norm1000", None]),
        "gt": gt,
        "pred": pred,
    }


def dirty_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind < 6:
        return rng.choice([None, True, False, [], {}])
    if depth > 2 or kind < 7:
        return nested(rng.choice([2, 40, 120]), rng)
    if kind < 9:
        return [dirty_value(rng, depth + 1) for _ in range(rng.randrange(8))]
    return {rng.choice([*KEYS, *TEXTS]): dirty_value(rng, depth + 1) for _ in range(rng.randrange(5))}


def nested(depth: int, rng: random.Random) -> Any:
    value: Any = rng.choice(NUMBERS)
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {rng.choice(KEYS): value}
    return value


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def spoil(record: Any, rng: random.Random, *, keys: Sequence[str] = KEYS) -> Any:
    """Changes one place, or adds to one."""
    found = list(places(record))
    if not found:
        return record
    container, key = rng.choice(found)
    if isinstance(container, dict) and rng.random() < 0.4:
        container[rng.choice(keys)] = dirty_value(rng)
    elif isinstance(container, dict) and rng.random() < 0.2:
        del container[key]
    else:
        container[key] = dirty_value(rng)
    return record


def spoil_text(text: bytes, rng: random.Random) -> bytes:
    """A broken line: cut, doubled, or with foreign bytes."""
    place = rng.randrange(len(text) + 1)
    foreign = rng.choice([b"\xff", b"\x00", b"NaN", b"{", b"]", b'"', b",", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\t", b"\x85", b"1" * 5000, b"[" * 100_000])
    return rng.choice([text[:place], text[:place] + foreign + text[place:], text + text, text[place:]]).replace(b"\n", b" ").replace(b"\r", b" ")


def dirty_line(rng: random.Random) -> bytes:
    record = clean_record(rng)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        record = spoil(record, rng)
    text = json.dumps(dirty_value(rng) if rng.random() < 0.02 else record, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    return spoil_text(text, rng) if rng.random() < 0.1 else text


def objects_of(record: dict[str, Any], *names: str) -> int:
    """How many objects stand under the first name that holds something; what is not a list counts as one."""
    value = next((record[name] for name in names if record.get(name)), [])
    return len(value) if isinstance(value, list) else 1


def read_strictly(path: Path) -> Any:
    """JSON as every reader takes it: no NaN, no infinity."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(f"{path.name} holds {name}"))


def check_conservation(path: Path, folder: Path) -> None:
    """Every line is counted or an image, every object of an image is used or kept with its reason."""
    summary, rows = read_strictly(folder / "metrics.json"), read_strictly(folder / "per_image.json")
    images = {row["image_id"]: row for row in rows}
    num_read = num_bad = num_invalid = 0
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            num_bad += 1
            continue
        row = images.pop(num_read, None)
        num_read += 1
        if row is not None:
            assert row["gt_count"] + len(row["invalid_gt"]) == objects_of(record, "gt", "objects"), line[:300]
            assert row["pred_count"] + len(row["invalid_pred"]) == objects_of(record, "pred", "predictions"), line[:300]
            num_invalid += len(row["invalid_gt"]) + len(row["invalid_pred"])
    counters = summary["counters"]
    assert images == {}
    assert set(counters) >= set(COUNTERS)
    assert (counters["invalid_json"], counters["missing_size"]) == (num_bad, num_read - len(rows))
    assert sum(counters[name] for name in ("invalid_geometry", "invalid_coord", "degenerate", "unknown_desc")) == num_invalid


def test_dirty_lines_never_stop_an_evaluation_and_no_object_is_lost(tmp_path: Path, long_count: Callable[[int, int], int]) -> None:
    for number in range(long_count(600, 24_000) // LINES_A_FILE):
        rng = random.Random(number)
        path, folder = tmp_path / "gt_vs_pred.jsonl", tmp_path / "eval"
        path.write_bytes(b"\n".join(dirty_line(rng) for _ in range(LINES_A_FILE)))
        result = evaluate(path, settings=EvalSettings(pixel_mode=rng.choice(["int", "exact"]), f1ish_pred_scope=rng.choice(["all", "annotated"])))
        assert all(math.isfinite(value) for value in result.metrics.values()), f"seed {number}"
        assert len(str(result)) < 2000
        result.save(folder)
        check_conservation(path, folder)
        for name in ("coco_gt.json", "coco_preds.json", "analysis.json"):
            read_strictly(folder / name)


@pytest.mark.parametrize("place", ["pred", "gt", "desc", "extra", "points"])
@pytest.mark.parametrize("depth", [60, 250, 480, 900, 5_000, 200_000])
@pytest.mark.parametrize("leaf", ["1", "NaN"])
def test_nesting_of_any_depth_costs_that_object_or_that_line(tmp_path: Path, record: Any, place: str, depth: int, leaf: str) -> None:
    box = {"bbox_2d": [1, 1, 9, 9], "desc": "cat"}
    spoiled = {"pred": [box, "HERE"]} if place == "pred" else {"gt": [box, "HERE"]} if place == "gt" else {"pred": [box, {**box, place: "HERE"}]}
    text = json.dumps(record(**spoiled)).replace('"HERE"', "[" * depth + leaf + "]" * depth)
    (tmp_path / "gt_vs_pred.jsonl").write_text(f"{json.dumps(record([box], [box]))}\n{text}\n{json.dumps(record([box], [box]))}\n")
    result = evaluate(tmp_path / "gt_vs_pred.jsonl")
    result.save(tmp_path / "eval")
    rows = read_strictly(tmp_path / "eval" / "per_image.json")
    assert len(rows) + result.counters["invalid_json"] == 3
    assert [row["f1_det"]["tp"] for row in (rows[0], rows[-1])] == [1, 1]
    check_conservation(tmp_path / "gt_vs_pred.jsonl", tmp_path / "eval") if depth == 60 else None


@pytest.mark.parametrize("side", [10**6, 10**6 + 1, 10**9, 2**63, 10**30, "1e30"])
def test_a_size_that_no_image_has_leaves_the_image_out(record: Any, side: Any) -> None:
    ring = {"poly": [0, 0, 50, 0, 50, 50], "desc": "cat"}
    result = evaluate([record([ring], [ring], width=side), record([ring], [ring])])
    assert result.counters["missing_size"] == (0 if side == 10**6 else 1)
    assert result.metrics["f1_det@0.50"] == 1


def test_ground_truth_that_is_left_out_is_a_warning(tmp_path: Path, record: Any) -> None:
    cat, thin = {"bbox_2d": [1, 2, 30, 40], "desc": "cat"}, {"bbox_2d": [1, 2, 1, 40], "desc": "cat"}
    lines = [json.dumps(record([cat, thin, 5], [cat])), json.dumps(record([cat], width=0)), "no JSON"]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    losses = "2 of 3 ground-truth objects (why: per_image.json), 1 records without a usable size, 1 lines that are not a JSON object"
    assert evaluate(tmp_path / "p.jsonl").warnings == (f"left out of all numbers: {losses}",)
    assert evaluate([record([cat], [thin, 5])]).warnings == ()


@pytest.mark.parametrize("key", ["extra", "desc", "image"])
def test_a_line_that_is_not_utf8_is_not_json_wherever_the_byte_stands(tmp_path: Path, record: Any, key: str) -> None:
    line = json.dumps({**record(), key: "HERE"}).encode().replace(b"HERE", b"\xff")
    (tmp_path / "p.jsonl").write_bytes(line + b"\n" + json.dumps(record()).encode() + b"\n")
    result = evaluate(tmp_path / "p.jsonl")
    assert (result.counters["invalid_json"], len(result.data.images)) == (1, 1)
    with pytest.raises(DataError, match=r"p\.jsonl:1: not a JSON object"):
        evaluate(tmp_path / "p.jsonl", settings=EvalSettings(strict_parse=True))


COCO_KEYS = (
    "id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd", "ignore", "score", "name", "file_name", "width", "height", "images",
    "annotations", "categories", "frequency", "neg_category_ids", "not_exhaustive_category_ids", "counts", "size",
)  # fmt: skip


def clean_coco(rng: random.Random) -> tuple[dict[str, Any], list[Any]]:
    """An instances file and its results, with boxes, polygons and both kinds of RLE; every fifth one under LVIS rules."""

    def item(more: dict[str, Any]) -> dict[str, Any]:
        x, y, width, height = rng.randrange(40), rng.randrange(20), rng.randrange(2, 20), rng.randrange(2, 20)
        masks = [[[x, y, x + width, y, x + width, y + height]], {"size": [40, 60], "counts": [100, 50, 2250]}, {"size": [40, 60], "counts": "PPYo1"}]
        segmentation = {"segmentation": rng.choice(masks)} if rng.random() < 0.5 else {}
        return {"image_id": rng.randrange(1, 5), "category_id": rng.choice([1, 7]), "bbox": [x, y, width, height], **more, **segmentation}

    is_lvis = rng.random() < 0.2
    image = {"width": 60, "height": 40, **({"neg_category_ids": [], "not_exhaustive_category_ids": []} if is_lvis else {})}
    images = [{"id": number, "file_name": f"{number}.png", **image} for number in range(1, 5)]
    categories = [{"id": number, "name": name, **({"frequency": rng.choice("rcf")} if is_lvis else {})} for number, name in ((1, "cat"), (7, "dog"))]
    annotations = [item({"id": number, "area": 9.5, "iscrowd": int(rng.random() < 0.1)}) for number in range(1, 9)]
    return {"images": images, "categories": categories, "annotations": annotations}, [item({"score": rng.random()}) for _ in range(8)]


def test_dirty_coco_files_are_evaluated_or_refused_with_a_sentence(tmp_path: Path, long_count: Callable[[int, int], int]) -> None:
    num_evaluated = 0
    count = long_count(300, 6_000)
    for seed in range(count):
        rng = random.Random(seed)
        pair: list[Any] = list(clean_coco(rng))
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            side = rng.randrange(2)
            pair[side] = spoil(pair[side], rng, keys=COCO_KEYS)
        for name, value in zip(("gt.json", "preds.json"), pair, strict=True):
            (tmp_path / name).write_text(json.dumps(value))
        try:
            result = evaluate_coco(tmp_path / "gt.json", tmp_path / "preds.json", settings=EvalSettings(strict_parse=rng.random() < 0.2))
        except UserError:
            continue
        num_evaluated += 1
        assert all(math.isfinite(value) for value in result.metrics.values()), f"seed {seed}"
        if seed % 4:  # files take most of the time
            continue
        result.save(tmp_path / "eval")
        for name in ("metrics.json", "per_image.json", "coco_gt.json", "coco_preds.json", "analysis.json"):
            read_strictly(tmp_path / "eval" / name)
    assert 0.6 * count < num_evaluated < count


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ({"id": 2**63}, r"gt\.json: images\[2\]: the id 9223372036854775808 is not a whole number of 64 bits; number them anew"),
        ({"id": 3.5}, r"images\[2\]: the id 3.5 is not a whole number"),
        ({"width": 2**63}, r"gt\.json: images\[2\]: no width or height; masks need the size of every image"),
        ({"height": None}, r"images\[2\]: no width or height"),
    ],
    ids=["a large id", "a broken id", "a huge image", "no height"],
)
def test_an_image_of_a_coco_file_that_cannot_be_used_is_named(tmp_path: Path, image: dict[str, Any], sentence: str) -> None:
    ring = [[1, 1, 20, 1, 20, 20]]
    item = {"image_id": image.get("id", 3), "category_id": 1, "bbox": [1, 1, 19, 19]}
    images = [{"id": number, "width": 60, "height": 40} for number in (1, 2)] + [{"id": 3, "width": 60, "height": 40, **image}]
    truth = {"images": images, "categories": [{"id": 1, "name": "cat"}], "annotations": [{**item, "id": 1}]}
    results = [{**item, "score": 0.5}, {**item, "image_id": 1, "score": 0.5, "segmentation": ring}]
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    (tmp_path / "preds.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=sentence):
        evaluate_coco(tmp_path / "gt.json", tmp_path / "preds.json")
