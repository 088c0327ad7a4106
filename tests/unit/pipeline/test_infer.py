"""One line out for each line in, whatever happens to it."""

import json
from pathlib import Path

import pytest

from coordexp.codec.prompts import PromptSpec
from coordexp.pipeline.counts import SampleError
from coordexp.pipeline.prompting import PromptPlan
from coordexp.pipeline.source import SourceLine, iter_source
from coordexp.types.errors import BackendError
from coordexp.types.predictions import ScoreParts

ANSWER = '{"object_1": {"desc": "cat", "bbox_2d": ["<|coord_0|>", "<|coord_0|>", "<|coord_999|>", "<|coord_500|>"]}}'
BOX = [f"<|coord_{k}|>" for k in (0, 0, 999, 500)]


def source(folder: Path, *records: dict) -> list[SourceLine]:
    path = folder / "val.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(iter_source(path))


def record(image: str, values: list | None = None, **fields: object) -> dict:
    objects = [{"desc": "cat", "bbox_2d": values or BOX}]
    return {"images": [image], "width": 64, "height": 32, "objects": objects, **fields}


def run(inference, lines: list[SourceLine]) -> list:
    return [result for window in inference.run(lines) for result in window.results]


def test_an_answer_becomes_a_detection_in_pixels_with_a_score(make_inference, draw, tmp_path: Path) -> None:
    inference, _ = make_inference({1: ANSWER}, logprob=-0.5)
    (result,) = run(inference, source(tmp_path, record(draw("a.png"))))
    assert result.gt[0].points == result.pred[0].points == (0, 0, 63, 16)
    assert result.pred[0].points_exact == pytest.approx((0, 0, 63, 500 / 999 * 31))
    assert result.pred[0].score_parts == ScoreParts(desc=0.606531, coord=0.606531)
    assert (result.pred[0].score, result.score_source) == (0.367879, "token_probs")
    assert (result.raw_output, result.errors, result.coord_mode, result.finish_reason) == (ANSWER, (), "pixel", "stop")


def test_without_probabilities_scores_are_constant(make_inference, draw, tmp_path: Path) -> None:
    inference, _ = make_inference({1: ANSWER})
    (result,) = run(inference, source(tmp_path, record(draw("a.png"))))
    assert (result.pred[0].score, result.pred[0].score_parts, result.score_source) == (1.0, None, "constant")


def test_failing_samples_give_a_line_with_their_error_and_the_counts_add_up(make_inference, draw, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n")
    lines = source(
        tmp_path,
        record(draw("a.png")),
        record("missing.png"),
        record("torn.png"),
        record(draw("other_size.png", 32, 32)),
        record(draw("b.png"), values=[1, 2, 30, 20], coord_space="pixel"),
        record(draw("c.png"), values=[BOX[2], BOX[1], BOX[0], BOX[3]]),
        record(draw("d.png"), values=["<|coord_1000|>"] * 4),
        record("../a.png"),
        record(draw("e.png"), width=None),
        record(draw("long.png", 4000, 2), width=4000, height=2),
        record(draw("f.png")),
    )
    inference, _ = make_inference({1: ANSWER, 11: "{}"})
    results = run(inference, lines)
    expected = [None, *["image_error"] * 2, "size_mismatch", "mode_gt_mismatch", "invalid_geometry", "invalid_coord", "image_error", "missing_size"]
    assert [next(iter(result.errors), None) for result in results] == [*expected, "image_error", "empty_pred"]
    assert [result.image for result in results[-3:]] == ["e.png", "long.png", "f.png"]
    assert results[8].width is None
    summary = inference.counts.as_dict(total_read=len(lines))
    assert (summary["total_emitted"], summary["total_answered"], summary["total_failed"]) == (11, 2, 9)
    assert summary["counters"]["image_error"] == 4
    assert set(summary["counters"]) == set(SampleError)


def test_pixel_ground_truth_is_what_text_mode_wants(make_inference, draw, tmp_path: Path) -> None:
    text = '{"object_1": {"desc": "cat", "bbox_2d": [1, 2, 30, 20]}}'
    inference, _ = make_inference({1: text, 2: text}, mode="text")
    pixel, bins = run(inference, source(tmp_path, record(draw("a.png"), values=[1, 2, 30, 20], coord_space="pixel"), record("a.png")))
    assert pixel.gt[0].points == pixel.pred[0].points == (1, 2, 30, 20)
    assert bins.errors == ("mode_gt_mismatch",)


def test_an_image_without_objects_fits_every_mode(make_inference, draw, tmp_path: Path) -> None:
    inference, _ = make_inference({1: "{}"})
    (result,) = run(inference, source(tmp_path, {"images": [draw("a.png")], "width": 64, "height": 32, "objects": [], "coord_space": "pixel"}))
    assert (result.gt, result.pred, result.coord_mode, result.errors) == ((), (), None, ("empty_pred",))


def test_what_cannot_be_read_is_counted_beside_what_can(make_inference, draw, tmp_path: Path) -> None:
    answer = ANSWER[:-1] + ', "object_2": {"desc": "x", "line": [1, 2]}, "object_3": {"desc": "y", "bbox_2d": [9, 9, 1, 1]}, "object_4": {"de'
    inference, _ = make_inference({1: answer})
    (result,) = run(inference, source(tmp_path, record(draw("a.png"))))
    assert len(result.pred) == 1
    assert result.errors == ("degenerate",)
    assert result.extras == {"broken": {"invalid_json": 1, "geometry_kind": 1}}
    summary = inference.counts.as_dict(total_read=1)
    assert summary["objects"] == {"read": 2, "kept": 1, "dropped": {"degenerate": 1}, "broken": {"geometry_kind": 1, "invalid_json": 1}}
    assert summary["error_codes"] == ["degenerate"]


def test_a_batch_that_fails_is_tried_one_by_one(make_inference, draw, tmp_path: Path) -> None:
    image = draw("a.png")
    inference, backend = make_inference({1: ANSWER, 2: ANSWER, 3: ANSWER, 5: ANSWER})
    results = run(inference, source(tmp_path, *[record(image)] * 5))
    assert [result.errors for result in results] == [(), (), (), ("generation_failed",), ()]
    assert backend.batches == [["val:1", "val:2"], ["val:3", "val:4"], ["val:3"], ["val:4"], ["val:5"]]


def test_a_backend_that_never_works_ends_the_run(make_inference, draw, tmp_path: Path) -> None:
    inference, _ = make_inference({})
    with pytest.raises(BackendError, match="no answer for val:1"):
        run(inference, source(tmp_path, *[record(draw("a.png"))] * 3))


def test_a_stock_model_is_asked_and_read_in_its_own_format(make_inference, draw, tmp_path: Path) -> None:
    answer = '```json\n[{"bbox_2d": [0, 0, 1000, 500], "label": "cat"}, {"bbox_2d": [9, 9, 1, 1], "label": "x"}]\n```'
    inference, _ = make_inference({1: answer, 2: answer}, mode="native", logprob=-0.5, prompts=PromptPlan(PromptSpec(), is_native=True))
    bins, pixel = run(inference, source(tmp_path, record(draw("a.png")), record("a.png", values=[1, 2, 30, 20], coord_space="pixel")))
    for result in (bins, pixel):
        assert result.pred[0].points_exact == (0.0, 0.0, 63.0, 16.0)
        assert (result.pred[0].desc, result.mode, result.score_source) == ("cat", "text", "token_probs")
        assert 0 < result.pred[0].score < result.pred[0].score_parts.desc == 0.606531
        assert result.errors == ("degenerate",)
    assert (bins.gt[0].points, pixel.gt[0].points) == ((0, 0, 63, 16), (1, 2, 30, 20))
