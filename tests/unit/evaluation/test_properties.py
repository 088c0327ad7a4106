"""What holds for every data set: laws of the evaluator, on drawn scenes with boxes and polygons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.f1_det import IOU_THRESHOLDS
from coordexp.evaluation.result import EvaluationResult

Record = dict[str, Any]
SIDE = 64
NAMES = ("cat", "dog", "Dog", "traffic light")
BY_SCORE = ("bbox_", "segm_", "nms_", "best_", "ece")
"""Metrics that rank predictions by their score."""
COUNTS = re.compile(r"f1_det@.*_(tp|fp|fn)|f1ish@.*_((tp|fp|fn)_(loc|full)|pred_(total|eval|ignored)|matched_sem_(ok|bad))")
PER_IMAGE = re.compile(r"health/objects_per_image_.*")

frugal = settings(max_examples=settings().max_examples // 2)


def near(values: Mapping[str, float]) -> Any:
    """Equal but for the order in which floats were summed."""
    return pytest.approx(dict(values), rel=1e-9, abs=1e-12)


@st.composite
def boxes(draw: st.DrawFn) -> list[int]:
    x, y = draw(st.integers(0, SIDE - 9)), draw(st.integers(0, SIDE - 9))
    return [x, y, x + draw(st.integers(2, SIDE - 1 - x)), y + draw(st.integers(2, SIDE - 1 - y))]


@st.composite
def objects(draw: st.DrawFn, *, near_to: list[Record] = [], polygons: bool = True) -> Record:  # noqa: B006
    """A box or a triangle; often the shifted copy of one that is there."""
    if near_to and draw(st.booleans()):
        source = draw(st.sampled_from(near_to))
        shift = draw(st.integers(-3, 3))
        points = [min(max(value + shift, 0), SIDE - 1) for value in source["points"]]
        return {"type": source["type"], "points": points, "desc": draw(st.sampled_from([source["desc"], *NAMES]))}
    x1, y1, x2, y2 = draw(boxes())
    kind = draw(st.sampled_from(["bbox_2d", "bbox_2d", "poly"])) if polygons else "bbox_2d"
    return {"type": kind, "points": [x1, y1, x2, y1, x1, y2] if kind == "poly" else [x1, y1, x2, y2], "desc": draw(st.sampled_from(NAMES))}


@st.composite
def scenes(draw: st.DrawFn, *, ties: bool = False, polygons: bool = True, min_size: int = 1) -> list[Record]:
    """Records with up to 4 ground truths and 5 predictions each. Without ties every prediction of the set has a score of its own."""
    records: list[Record] = []
    for index in range(draw(st.integers(min_size, 5))):
        gt = draw(st.lists(objects(polygons=polygons), max_size=4))
        pred = draw(st.lists(objects(near_to=gt, polygons=polygons), max_size=5))
        records.append({"image": f"{index}.png", "width": SIDE, "height": SIDE, "coord_mode": "pixel", "gt": gt, "pred": pred})
    said = [item for record in records for item in record["pred"]]
    ranks = draw(st.lists(st.integers(0, 3), min_size=len(said), max_size=len(said)) if ties else st.permutations(range(len(said))))
    for item, rank in zip(said, ranks, strict=True):
        item["score"] = (rank + 1) / (len(said) + 4)
    return records


def run(records: list[Record], **settings: Any) -> EvaluationResult:
    return evaluate(records, settings=EvalSettings(**settings))


def comparable(result: EvaluationResult) -> dict[str, float]:
    """Without what depends on the order of equal scores, when there are any."""
    return {name: value for name, value in result.metrics.items() if result.scores.ap_valid or not name.startswith(BY_SCORE)}


@frugal
@given(records=scenes(ties=True), data=st.data(), scope=st.sampled_from(["annotated", "all"]))
def test_the_order_of_lines_changes_no_number_unless_the_result_says_that_ap_is_not_valid(records: list[Record], data: st.DataObject, scope: str) -> None:
    first, second = run(records, f1ish_pred_scope=scope), run(data.draw(st.permutations(records)), f1ish_pred_scope=scope)
    assert first.scores.ap_valid == second.scores.ap_valid
    assert comparable(first) == near(comparable(second))


@frugal
@given(records=scenes())
def test_every_image_twice_changes_neither_f1_nor_ap(records: list[Record]) -> None:
    once, twice = run(records).metrics, run([*records, *records]).metrics
    rates = {
        name: value for name, value in once.items() if name.startswith(("f1_det", "bbox_AP", "segm_AP", "bbox_AR", "segm_AR")) and not COUNTS.fullmatch(name)
    }
    assert rates == near({name: twice[name] for name in rates})
    assert all(twice[name] == 2 * once[name] for name in once if COUNTS.fullmatch(name))


@frugal
@given(records=scenes(min_size=2), data=st.data(), scope=st.sampled_from(["annotated", "all"]))
def test_the_counts_of_the_parts_add_up_to_those_of_the_whole(records: list[Record], data: st.DataObject, scope: str) -> None:
    cut = data.draw(st.integers(1, len(records) - 1))
    whole, first, second = (run(part, f1ish_pred_scope=scope).metrics for part in (records, records[:cut], records[cut:]))
    names = [name for name in whole if COUNTS.fullmatch(name)]
    assert len(names) == 9 + 2 * 11
    assert {name: first[name] + second[name] for name in names} == {name: whole[name] for name in names}


@frugal
@given(records=scenes(), mode=st.sampled_from(["int", "exact"]))
def test_a_perfect_prediction_gets_one_everywhere(records: list[Record], mode: str) -> None:
    """Undefined values (-1: no ground truth of that size) stay undefined; NMS-AP takes objects on top of each other for doubles, AR1 names one."""
    perfect = [{**record, "pred": [{**item, "score": 0.5 + index / 100} for index, item in enumerate(record["gt"])]} for record in records]
    assume(any(record["gt"] for record in records))
    metrics = run(perfect, pixel_mode=mode).metrics
    rates = {name: value for name, value in metrics.items() if re.search(r"f1|precision|recall|^(bbox|segm)_(AP|AR100|AR[sml])|matched_iou|sem_acc", name)}
    wrong = {name: value for name, value in rates.items() if not COUNTS.fullmatch(name) and "delta" not in name and value != pytest.approx(1) and value != -1}
    assert wrong == {}
    assert metrics["f1_det_miou"] == metrics["mean_matched_iou"] == 1
    assert {name: value for name, value in metrics.items() if "delta" in name and value != 0} == {}


def _iou(a: list[float], b: list[float]) -> float:
    width, height = (min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis]) for axis in (0, 1))
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _ious(record: Record) -> list[float]:
    found = [_iou(one["points"], other["points"]) for one in record["pred"] for other in record["gt"]]
    return [value for value in found if value > 0]


def _has_equal_ious(records: list[Record]) -> bool:
    return any(len(set(ious)) < len(ious) for ious in map(_ious, records))


@frugal
@given(records=scenes(polygons=False), data=st.data())
def test_the_order_of_predictions_inside_an_image_changes_no_number_without_ties(records: list[Record], data: st.DataObject) -> None:
    assume(not _has_equal_ious(records))
    mixed = [{**record, "pred": data.draw(st.permutations(record["pred"]))} for record in records]
    assert run(records).metrics == near(run(mixed).metrics)


@frugal
@given(records=scenes(polygons=False))
def test_precision_and_recall_change_places_when_truth_and_prediction_do(records: list[Record]) -> None:
    assume(not _has_equal_ious(records))
    swapped = [{**record, "gt": record["pred"], "pred": record["gt"]} for record in records]
    first, second = (run(part, with_coco=False, with_f1ish=False).det.total for part in (records, swapped))
    assert first.tp.tolist() == second.tp.tolist()
    assert [first.precision(0.5), first.recall(0.5), first.f1_miou] == [second.recall(0.5), second.precision(0.5), second.f1_miou]


def _greedy(record: Record, threshold: float) -> int:
    """f1_det by its definition, at one threshold: pairs of equal names by falling IoU, then by prediction, then by ground truth."""
    pairs = [
        (-_iou(one["points"], other["points"]), i, j)
        for i, one in enumerate(record["pred"])
        for j, other in enumerate(record["gt"])
        if one["desc"].lower() == other["desc"].lower()
    ]
    taken: list[tuple[int, int]] = []
    for negative, i, j in sorted(pairs):
        if -negative >= threshold and all(i != pred and j != gt for pred, gt in taken):
            taken.append((i, j))
    return len(taken)


@frugal
@given(records=scenes(polygons=False, ties=True))
def test_the_matches_at_every_threshold_are_those_of_a_matching_of_its_own(records: list[Record]) -> None:
    result = run(records, with_coco=False, with_f1ish=False)
    for record, counts in zip(records, result.det.per_image, strict=True):
        assert counts.tp.tolist() == [_greedy(record, threshold) for threshold in IOU_THRESHOLDS]
    assert result.det.total.tp.tolist() == sorted(result.det.total.tp.tolist(), reverse=True)


@frugal
@given(records=scenes(polygons=False))
def test_both_pixel_modes_agree_on_whole_pixels(records: list[Record]) -> None:
    assert run(records, pixel_mode="int").metrics == near(run(records, pixel_mode="exact").metrics)


@frugal
@given(records=scenes(ties=True), scope=st.sampled_from(["annotated", "all"]), mode=st.sampled_from(["auto", "constant"]))
def test_every_metric_lies_where_it_belongs(records: list[Record], scope: str, mode: str) -> None:
    result = run(records, f1ish_pred_scope=scope, score_mode=mode)
    for name, value in result.metrics.items():
        if COUNTS.fullmatch(name) or PER_IMAGE.fullmatch(name):
            assert value >= 0, name
        else:
            low = -1 if name.startswith(BY_SCORE) or "delta" in name else 0
            assert low <= value <= 1, name
    num_used = sum(counts.num_gt for counts in result.det.by_class) + sum(counts.num_pred for counts in result.det.by_size.values())
    assert num_used + result.counters["degenerate"] == sum(len(record["gt"]) + len(record["pred"]) for record in records)
