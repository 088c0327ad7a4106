"""Generation health from the fields that inference writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.health import GenerationHealth, ObjectsPerImage

CAT = {"bbox_2d": [0, 0, 40, 40], "desc": "cat"}


def _health(*records: dict[str, Any]) -> GenerationHealth:
    return evaluate(list(records)).analysis.health


def test_how_answers_ended(record: Any) -> None:
    ends = ("stop", "length", "length", "repeat", None)
    health = _health(*(record(pred=[CAT], finish_reason=end, image=f"{place}.png") for place, end in enumerate(ends)))
    assert (health.num_images, health.num_answers) == (5, 4)
    assert health.finish_reasons == {"length": 2, "repeat": 1, "stop": 1}
    assert (health.truncated, health.looped) == (0.5, 0.25)


def test_records_that_do_not_say_how_answers_ended_have_no_share(record: Any) -> None:
    result = evaluate([record([CAT], [CAT])])
    assert (result.analysis.health.truncated, result.analysis.health.looped) == (None, None)
    assert "health/truncated" not in result.metrics
    assert result.metrics["health/empty"] == 0.0


@pytest.mark.parametrize(
    ("fields", "reasons"),
    [
        ({"broken": {"invalid_json": 2}}, {"invalid_json": 2}),
        ({"errors": ["degenerate", "degenerate", "empty_pred"]}, {"degenerate": 1}),
        ({"pred": [CAT, {"bbox_2d": [9, 9, 9, 20], "desc": "cat"}, "cat"]}, {"degenerate": 1, "geometry_keys": 1}),
        ({"broken": {"coord_parse": 1}, "errors": ["coord_parse"], "pred": []}, {"coord_parse": 2}),
        ({"broken": {"invalid_json": 0}, "errors": ["image_error"]}, {}),
        ({"broken": ["invalid_json"], "errors": "degenerate"}, {}),
        ({}, {}),
    ],
    ids=["not read", "not used by inference", "not used here", "several", "failed", "of another form", "clean"],
)
def test_malformed_entries(record: Any, fields: dict[str, Any], reasons: dict[str, int]) -> None:
    health = _health(record([CAT], **fields), record([CAT], [CAT], image="b.png"))
    assert health.malformed_entries == reasons
    assert health.malformed == (0.5 if reasons else 0.0)


def test_empty_answers_are_told_from_failed_ones(record: Any) -> None:
    health = _health(
        record([CAT], [CAT], image="a.png", finish_reason="stop"),
        record([CAT], [], image="b.png", finish_reason="stop", errors=["empty_pred"]),
        record([CAT], [], image="c.png", finish_reason="stop", errors=["degenerate", "empty_pred"]),
        record([CAT], [], image="d.png", finish_reason=None, errors=["generation_failed"]),
    )
    assert (health.failed, health.empty) == (0.25, pytest.approx(2 / 3))


def test_duplicates_have_the_class_and_almost_the_box_of_an_earlier_prediction(record: Any) -> None:
    near, far = {"bbox_2d": [0, 0, 40, 39], "desc": "Cat "}, {"bbox_2d": [0, 0, 40, 36], "desc": "cat"}
    health = _health(record([CAT], [CAT, near, CAT, {**CAT, "desc": "dog"}]), record([CAT], [CAT, far], image="b.png"), record([CAT], [CAT], image="c.png"))
    assert (health.num_duplicates, health.duplicates) == (2, pytest.approx(2 / 7))


def test_objects_per_image_count_every_image(record: Any) -> None:
    counts = (0, 0, 1, 2, 7)
    boxes = [{"bbox_2d": [10 * place, 0, 10 * place + 9, 9], "desc": "cat"} for place in range(7)]
    health = _health(*(record(boxes[:count], boxes[: count // 2], image=f"{count}.png") for count in counts))
    assert health.gt_objects == ObjectsPerImage(2.0, 1.0, float(np.percentile(counts, 90)), 7)
    assert (health.pred_objects.mean, health.pred_objects.p50, health.pred_objects.max) == (0.8, 0.0, 3)


def test_nothing_gives_zeros(record: Any) -> None:
    health = _health()
    assert (health.num_images, health.malformed, health.failed, health.empty, health.duplicates) == (0, 0.0, 0.0, 0.0, 0.0)
    assert health.gt_objects == ObjectsPerImage(0.0, 0.0, 0.0, 0)
