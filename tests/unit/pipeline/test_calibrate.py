"""Calibrations on files of predictions: fitted on one half of a run's images, they hold on the other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from coordexp.cli.main import main
from coordexp.evaluation.evaluate import evaluate
from coordexp.evaluation.score_calibration import IsotonicCurve, PlattCurve, ScoreCalibration
from coordexp.pipeline.calibrate import fit_calibration, judge_scores
from coordexp.types.errors import DataError

Record = dict[str, Any]


def overconfident(num_images: int, *, seed: int, **line: Any) -> list[Record]:
    """Three objects an image; a prediction of score s is right with probability s³. Its name is surer than its place."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    for index in range(num_images):
        gt, pred = [], []
        for place in range(3):
            box = [10 + 60 * place, 10, 50 + 60 * place, 60]
            gt.append({"type": "bbox_2d", "points": box, "desc": "cat"})
            desc, coord = (round(float(value), 6) for value in rng.random(2) ** [0.2, 0.5])
            is_right = rng.random() < (desc * coord) ** 3
            said = box if is_right else [value + 100 * (axis % 2) for axis, value in enumerate(box)]
            parts = {"desc": desc, "coord": coord}
            pred.append({"type": "bbox_2d", "points": said, "desc": "cat", "score": round(desc * coord, 6), "score_parts": parts})
        size = {"image": f"{index}.png", "width": 200, "height": 200, "coord_mode": "pixel"}
        records.append({**size, "gt": gt, "pred": pred, "raw_output": "ü", "score_source": "token_probs", **line})
    return records


def below_each_other(records: list[Record]) -> Record:
    """All objects of several images in one."""

    def moved(key: str) -> list[Record]:
        return [
            {**item, "points": [value + 300 * number * (axis % 2) for axis, value in enumerate(item["points"])]}
            for number, record in enumerate(records)
            for item in record[key]
        ]

    return {**records[0], "height": 300 * len(records), "gt": moved("gt"), "pred": moved("pred")}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_records(records: list[Record], name: str = "gt_vs_pred.jsonl") -> Path:
        (tmp_path / name).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        return tmp_path / name

    return write_records


def ece(path: Path) -> float:
    found = evaluate(path).analysis.calibration
    assert found is not None
    return found.ece


def test_a_calibration_knows_what_the_confidences_of_its_run_were_made_from(write, tmp_path: Path) -> None:
    path = write(overconfident(60, seed=0))
    assert main(["calibrate", "--pred_jsonl", str(path), "--out", str(tmp_path / "a.json")]) == 0
    assert ScoreCalibration.read(tmp_path / "a.json").fitted_on.probabilities is None
    (tmp_path / "summary.json").write_text(json.dumps({"backend": {"type": "vllm", "probabilities": "top 20"}}))
    assert main(["calibrate", "--pred_jsonl", str(path), "--out", str(tmp_path / "b.json")]) == 0
    assert ScoreCalibration.read(tmp_path / "b.json").fitted_on.probabilities == "top 20"


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_scores_of_other_images_become_probabilities(method: str, write, tmp_path: Path) -> None:
    fit, held_out = write(overconfident(150, seed=0), "fit.jsonl"), write(overconfident(150, seed=1), "held_out.jsonl")
    curve, applied = tmp_path / "curve.json", tmp_path / "applied.jsonl"
    assert main(["calibrate", "--pred_jsonl", str(fit), "--out", str(curve), "--method", method]) == 0
    assert main(["calibrate", "apply", "--calibration", str(curve), "--pred_jsonl", str(held_out), "--out", str(applied)]) == 0
    found = ScoreCalibration.read(curve)
    assert found.before.ece == ece(fit) > 0.15
    assert found.after.ece < 0.5 * found.before.ece
    assert ece(applied) < 0.5 * ece(held_out)
    assert found.fitted_on.num_pred == 450
    assert found.curve.inputs == ("desc", "coord") if isinstance(found.curve, PlattCurve) else method == "isotonic"


def test_isotonic_keeps_every_ranking_so_average_precision_is_the_same(write, tmp_path: Path) -> None:
    raw, applied = write(overconfident(60, seed=2)), tmp_path / "applied.jsonl"
    assert main(["calibrate", "--pred_jsonl", str(raw), "--out", str(tmp_path / "c.json")]) == 0
    assert main(["calibrate", "apply", "--calibration", str(tmp_path / "c.json"), "--pred_jsonl", str(raw), "--out", str(applied)]) == 0
    before, after = evaluate(raw), evaluate(applied)
    assert after.scores.ap_valid
    assert {key: value for key, value in before.metrics.items() if "AP" in key} == {key: value for key, value in after.metrics.items() if "AP" in key}


def test_the_stored_curve_is_that_of_the_library(write) -> None:
    path = write(overconfident(60, seed=3))
    curve = fit_calibration(path).curve
    judged, _ = judge_scores(path, iou=0.5, pixel_mode="int")
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(judged.scores, judged.is_right)
    scores = np.linspace(0, 1, 101)
    assert isinstance(curve, IsotonicCurve)
    assert [curve.probability(score) for score in scores.tolist()] == pytest.approx((0.999 * theirs.predict(scores) + 0.001 * scores).tolist(), abs=1e-12)


def test_nothing_but_scores_and_their_source_changes(write, tmp_path: Path) -> None:
    records = overconfident(30, seed=4)
    records.insert(3, {"image": "bad.png", "width": None, "height": None, "gt": [], "pred": [], "errors": ["image_error"], "score_source": None})
    raw, applied = write(records), tmp_path / "applied.jsonl"
    main(["calibrate", "--pred_jsonl", str(raw), "--out", str(tmp_path / "c.json")])
    assert main(["calibrate", "apply", "--calibration", str(tmp_path / "c.json"), "--pred_jsonl", str(raw), "--out", str(applied)]) == 0
    for line, record in zip(applied.read_text().splitlines(), records, strict=True):
        found = json.loads(line)
        assert found["score_source"] == ("calibrated" if record["pred"] else None)
        assert list(found) == list(record)
        scores = [item.pop("score") for item in found["pred"]]
        assert all(0 <= score <= 1 for score in scores)
        assert found == {**record, "score_source": found["score_source"], "pred": [{k: v for k, v in item.items() if k != "score"} for item in record["pred"]]}


def test_a_higher_iou_makes_fewer_predictions_right(write) -> None:
    records = overconfident(60, seed=5)
    for record in records:
        for item in record["pred"]:
            item["points"] = [value + (3 if axis == 0 else 0) for axis, value in enumerate(item["points"])]  # IoU 37/40
    path = write(records)
    num_right = [int(judge_scores(path, iou=iou, pixel_mode="int")[0].is_right.sum()) for iou in (0.5, 0.9, 0.95)]
    assert num_right[0] == num_right[1] > num_right[2] == 0


REFUSED: dict[str, tuple[list[Record], str]] = {
    "constant scores": (overconfident(30, seed=0, score_source="constant"), "the backend gave no probabilities"),
    "calibrated before": (overconfident(30, seed=0, score_source="calibrated"), "calibrated already"),
    "too few": (overconfident(4, seed=0), "at least 10 are needed"),
    "one image": ([below_each_other(overconfident(20, seed=0))], "all 60 predictions are of one image"),
    "no scores": ([{**overconfident(1, seed=0)[0], "pred": [{"type": "bbox_2d", "points": [1, 1, 9, 9], "desc": "cat"}]}], "has no score"),
}


@pytest.mark.parametrize(("records", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_fitted_on_is_refused_and_nothing_written(
    records: list[Record], sentence: str, write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--pred_jsonl", str(write(records)), "--out", str(tmp_path / "c.json")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_two_images_with_predictions_are_enough_wherever_they_stand_among_those_without(method: str, write, tmp_path: Path) -> None:
    first, second = (below_each_other(overconfident(20, seed=seed)) for seed in (0, 1))
    for place in range(1, 8):
        records = [first, *[{**first, "pred": []}] * 7]
        records[place] = second
        assert main(["calibrate", "--pred_jsonl", str(write(records)), "--out", str(tmp_path / "c.json"), "--method", method]) == 0


def test_a_bad_line_in_the_middle_leaves_no_output(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = write(overconfident(30, seed=6))
    main(["calibrate", "--pred_jsonl", str(raw), "--out", str(tmp_path / "c.json")])
    raw.write_text(raw.read_text() + "{broken\n")
    apply = ["calibrate", "apply", "--calibration", str(tmp_path / "c.json"), "--pred_jsonl", str(raw)]
    assert main([*apply, "--out", str(tmp_path / "applied.jsonl")]) == 2
    error = capsys.readouterr().err
    assert f"{raw}:31: not a JSON object" in error
    assert "--strict-parse" not in error, "the command has no such flag"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.json", "gt_vs_pred.jsonl"]
    assert main([*apply, "--out", str(raw)]) == 2
    assert "would replace the raw scores" in capsys.readouterr().err


def test_an_iou_below_the_matching_is_refused(write) -> None:
    with pytest.raises(DataError, match="matches begin at"):
        fit_calibration(write(overconfident(20, seed=7)), iou=0.3)


def test_applying_loads_neither_torch_nor_the_library_that_fits(write, tmp_path: Path) -> None:
    raw = write(overconfident(30, seed=8))
    main(["calibrate", "--pred_jsonl", str(raw), "--out", str(tmp_path / "c.json")])
    code = (
        "import sys; from coordexp.cli.main import main; code = main(sys.argv[1:]);"
        "sys.exit(code or ', '.join({'sklearn', 'torch', 'scipy'} & set(sys.modules)) or 0)"
    )
    apply = ["calibrate", "apply", "--calibration", str(tmp_path / "c.json"), "--pred_jsonl", str(raw), "--out", str(tmp_path / "applied.jsonl")]
    done = subprocess.run([sys.executable, "-c", code, *apply], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
