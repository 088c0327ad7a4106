"""The inference pipeline as a user runs it: infer, eval and vis from one file, with the shipped tiny model on real pixels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from coordexp.cli.main import main
from coordexp.data.convert import to_space, to_tokens
from coordexp.data.jsonl import record_to_json
from coordexp.data.synthetic import load_split, render_scene
from coordexp.evaluation.score_calibration import FittedOn, IsotonicCurve, Quality, ScoreCalibration
from coordexp.geometry.bins import bins_to_pixels
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.tiny import build_tiny
from coordexp.pipeline.result_file import ResultWriter
from coordexp.recipes import infer_backend
from coordexp.types.records import Record

torch.set_num_threads(1)

NUM_IMAGES = 6
LINE_KEYS = ["image", "width", "height", "mode", "coord_mode", "gt", "pred", "raw_output", "errors"]


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """Scenes of a held-out split at the size that the model was trained on, and their folder."""
    folder = tmp_path_factory.mktemp("scenes")
    result: list[Record] = []
    for index in range(NUM_IMAGES):
        scene = render_scene(load_split("shapes-val").settings, index)
        height, width = scene.image.shape[:2]
        Image.fromarray(scene.image).resize((96, 96), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        drawn = to_tokens(Record("", f"{index}.png", width, height, scene.objects, "pixel"))
        result.append(dataclasses.replace(drawn, width=96, height=96))
    return folder, result


@pytest.fixture
def write_run(tmp_path: Path, records: tuple[Path, list[Record]]):
    """Writes a data file beside the images and a pipeline file for it; returns the pipeline file and the run's folder."""
    folder, known = records

    def write(name: str = "run", *, lines: list[str] | None = None, stages: str = "infer", space: str = "token", **infer: Any) -> tuple[Path, Path]:
        data = folder / f"{name}-{space}.jsonl"
        spelled = [json.dumps(record_to_json(to_space(record, space))) for record in known]
        data.write_text("\n".join(lines if lines is not None else spelled))
        generation = {"max_new_tokens": 256, "batch_size": 4, "seed": 42, **infer.pop("generation", {})}
        section = {"gt_jsonl": str(data), "model_checkpoint": str(tiny_checkpoint()), "device": "cpu", "generation": generation, **infer}
        flags = {stage: stage in stages.split() for stage in ("infer", "eval", "vis")}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"run": {"name": name, "output_dir": str(tmp_path / "out")}, "stages": flags, "infer": section}))
        return path, tmp_path / "out" / name

    return write


def run(path: Path, *more: str) -> int:
    return main(["infer", "--config", str(path), *more])


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "gt_vs_pred.jsonl").read_text().splitlines()]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_infer_eval_and_vis_in_one_run(write_run) -> None:
    path, folder = write_run(stages="infer eval vis")
    assert run(path) == 0
    lines, summary = read_lines(folder), read_json(folder / "summary.json")
    assert [line["image"] for line in lines] == [f"{index}.png" for index in range(NUM_IMAGES)]
    assert all(list(line)[:9] == LINE_KEYS and line["mode"] == "coord" for line in lines)
    found = [item for line in lines for item in line["pred"]]
    assert all(0 < item["score"] < 1 and len(item["points_exact"]) == 4 for item in found)
    assert (summary["total_read"], summary["total_emitted"], summary["total_failed"]) == (NUM_IMAGES, NUM_IMAGES, 0)
    assert (summary["mode"], summary["mode_reason"], summary["determinism"]) == ("coord", "coord_tokens_found", "strict")
    assert summary["objects"]["kept"] == len(found)
    assert read_json(folder / "eval" / "metrics.json")["metrics"]["f1_det@0.50"] > 0.6
    assert len(list((folder / "vis").glob("vis_*.png"))) == NUM_IMAGES


def test_the_manifest_says_what_ran_and_where_everything_lies(write_run, records) -> None:
    path, folder = write_run(limit=1)
    assert run(path) == 0
    manifest = read_json(folder / "resolved_config.json")
    assert manifest["schema_version"] == 1
    assert manifest["stages"] == {"infer": True, "eval": False, "vis": False}
    assert manifest["artifacts"]["gt_vs_pred_jsonl"] == str(folder / "gt_vs_pred.jsonl")
    assert (manifest["root_image_dir"], manifest["root_image_dir_source"]) == (str(records[0]), "gt_parent")
    assert manifest["config"]["infer"]["limit"] == 1
    assert manifest["config"]["infer"]["generation"]["top_p"] == 1.0
    assert "object_1" in manifest["prompt"]["system"]


def test_the_same_configuration_and_seed_give_the_same_bytes(write_run) -> None:
    sampled = {"temperature": 0.8, "top_p": 0.95}
    outputs = []
    for name, seed in (("first", 7), ("second", 7), ("third", 8)):
        path, _folder = write_run(name, generation={**sampled, "seed": seed})
        lines = path.with_suffix(".jsonl")
        path.write_text(path.read_text().replace(f"{name}-token.jsonl", "first-token.jsonl"))
        assert run(path, "--out", str(lines)) == 0
        outputs.append(lines.read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]


def test_the_batch_size_does_not_change_what_is_found(write_run) -> None:
    texts = []
    for name, batch_size in (("one", 1), ("five", 5)):
        path, folder = write_run(name, generation={"batch_size": batch_size})
        assert run(path) == 0
        texts.append([line["raw_output"] for line in read_lines(folder)])
    assert texts[0] == texts[1]


def test_a_sample_that_fails_gives_a_line_and_the_others_go_on(write_run, records) -> None:
    good = json.dumps(record_to_json(records[1][0]))
    swapped = good.replace("bbox_2d", "line", 1)
    path, folder = write_run(lines=[good, "{broken", good.replace("0.png", "missing.png"), "", swapped, good])
    assert run(path) == 0
    lines, summary = read_lines(folder), read_json(folder / "summary.json")
    assert [line["errors"] for line in lines] == [[], ["invalid_json"], ["image_error"], ["invalid_geometry"], []]
    assert lines[0]["pred"] == lines[4]["pred"] != []
    assert (summary["total_read"], summary["total_emitted"], summary["total_answered"], summary["total_failed"]) == (5, 5, 2, 3)
    assert summary["error_codes"] == ["image_error", "invalid_geometry", "invalid_json"]


def test_text_mode_reads_pixel_ground_truth(write_run, records) -> None:
    path, folder = write_run(space="pixel", limit=2)
    assert run(path) == 0
    lines, manifest = read_lines(folder), read_json(folder / "resolved_config.json")
    assert [line["mode"] for line in lines] == ["text", "text"]
    assert manifest["mode_reason"] == "within_image_bounds"
    assert "<|coord" not in manifest["prompt"]["system"]
    assert len(lines[0]["gt"]) == len(records[1][0].objects)


def test_evaluation_and_pictures_need_no_model(write_run) -> None:
    path, folder = write_run(limit=2)
    assert run(path) == 0
    manifest = (folder / "resolved_config.json").read_bytes()
    later, _ = write_run(stages="eval vis", limit=2, model_checkpoint="gone")
    assert run(later) == 0
    assert (folder / "eval" / "metrics.json").is_file()
    assert len(list((folder / "vis").iterdir())) == 2
    assert (folder / "resolved_config.json").read_bytes() == manifest
    (folder / "resolved_config.json").unlink()
    assert run(later) == 0
    assert read_json(folder / "resolved_config.json")["stages"] == {"infer": False, "eval": True, "vis": True}


def test_a_finished_run_is_not_repeated_unless_asked(write_run, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = write_run(limit=1)
    assert run(path) == 0
    before = (folder / "summary.json").stat().st_mtime_ns
    assert run(path) == 0
    assert "is finished; --overwrite starts it again" in capsys.readouterr().err
    assert (folder / "summary.json").stat().st_mtime_ns == before
    assert run(path, "infer.limit=2") == 2
    assert "other settings, data or weights" in capsys.readouterr().err
    assert run(path, "infer.limit=2", "--overwrite") == 0
    assert len(read_lines(folder)) == 2


def test_a_run_that_is_refused_because_another_one_writes_leaves_the_files_of_that_one(write_run, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = write_run(limit=1, generation={"max_new_tokens": 8})
    assert run(path) == 0
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    with ResultWriter(folder / "gt_vs_pred.jsonl", fingerprint="of the other"):
        assert run(path, "--overwrite", "--max_new_tokens", "9") == 2
    assert "another run is writing here" in capsys.readouterr().err
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


def test_a_run_that_ends_while_another_one_loads_its_model_is_not_replaced(write_run, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    path, folder = write_run(limit=1, generation={"max_new_tokens": 8})
    load = infer_backend.open_backend

    def load_slowly(*args: Any, **settings: Any) -> Any:
        monkeypatch.setattr(infer_backend, "open_backend", load)
        assert run(path) == 0
        return load(*args, **settings)

    monkeypatch.setattr(infer_backend, "open_backend", load_slowly)
    assert run(path, "--max_new_tokens", "9") == 2
    assert "a finished run with other settings, data or weights lies here" in capsys.readouterr().err
    assert read_json(folder / "summary.json")["backend"]["generation"]["max_new_tokens"] == 8
    assert not (folder / "gt_vs_pred.jsonl.partial").exists()


def test_a_part_that_was_done_again_is_in_the_whole_after_the_next_merge(write_run, records) -> None:
    picture = {"images": ["late.png"], "width": 96, "height": 96, "objects": []}
    path, folder = write_run("parts", lines=[json.dumps(picture)] * 2, mode="coord", generation={"max_new_tokens": 8, "batch_size": 1, "window": 1})
    parts = [("--shard", "1/2"), ("--shard", "2/2")]
    assert [run(path, *part) for part in parts] == [0, 0]
    assert main(["merge", str(folder)]) == 0
    assert [line["errors"] for line in read_lines(folder)] == [["image_error"]] * 2
    Image.new("RGB", (96, 96)).save(records[0] / "late.png")
    assert run(path, *parts[0], "--overwrite") == 0
    assert main(["merge", str(folder)]) == 0
    assert [line["finish_reason"] is None for line in read_lines(folder)] == [False, True]
    assert read_json(folder / "summary.json")["counters"]["image_error"] == 1


def test_expected_coordinates_lie_near_the_written_bins_and_between_them(write_run, capsys: pytest.CaptureFixture[str]) -> None:
    exact: dict[str, list[float]] = {}
    texts = {}
    for decode in ("argmax", "expectation"):
        path, folder = write_run(decode, coord_decode=decode)
        assert run(path) == 0
        lines = read_lines(folder)
        texts[decode] = [line["raw_output"] for line in lines]
        exact[decode] = [value for line in lines for item in line["pred"] for value in item["points_exact"]]
        assert read_json(folder / "summary.json")["coord_decode"] == decode
    assert texts["argmax"] == texts["expectation"]
    assert len(exact["argmax"]) == len(exact["expectation"]) > 0
    bin_width = 95 / 999
    distances = [abs(a - b) for a, b in zip(exact["argmax"], exact["expectation"], strict=True)]
    assert 0 < max(distances) <= 24 * bin_width
    assert any(abs(value / bin_width - round(value / bin_width)) > 0.05 for value in exact["expectation"])
    path, folder = write_run("text", space="pixel", coord_decode="expectation")
    assert run(path) == 2
    assert "no coordinate tokens to take the expectation over in mode text" in capsys.readouterr().err
    assert not folder.exists()


def test_calibrated_scores_in_the_run_are_those_of_the_command_afterwards(write_run, tmp_path: Path) -> None:
    raw_file, raw = write_run("raw")
    assert run(raw_file) == 0
    curve = IsotonicCurve((0.1, 0.9), (0.0, 0.6))
    fitted = FittedOn("val.jsonl", "0" * 64, num_images=9, num_pred=9, num_right=5, iou=0.5, label_rule="exact", pixel_mode="int")
    quality = Quality(0.2, 0.3, 0.1, None)
    ScoreCalibration(curve, fitted, before=quality, after=quality, folds=5).write(tmp_path / "c.json")
    path, folder = write_run("calibrated", calibration=str(tmp_path / "c.json"))
    assert run(path) == 0
    apply = ["calibrate", "apply", "--calibration", str(tmp_path / "c.json"), "--pred_jsonl", str(raw), "--out", str(tmp_path / "applied.jsonl")]
    assert main(apply) == 0
    assert (folder / "gt_vs_pred.jsonl").read_bytes() == (tmp_path / "applied.jsonl").read_bytes()
    assert all(0 < item["score"] < 0.601 for line in read_lines(folder) for item in line["pred"])
    assert read_json(folder / "summary.json")["calibration"]["fitted_on"]["num_pred"] == 9
    assert read_json(raw / "summary.json")["calibration"] is None
    assert read_json(raw / "summary.json")["backend"]["probabilities"] == "all"
    ScoreCalibration(IsotonicCurve((0.1, 0.9), (0.0, 0.7)), fitted, before=quality, after=quality, folds=5).write(tmp_path / "c.json")
    assert run(path) == 2  # other content under the same name: not the same run


def test_a_calibration_of_other_confidences_is_refused(write_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quality = Quality(0.2, 0.3, 0.1, None)
    fitted = FittedOn("val.jsonl", "0" * 64, num_images=9, num_pred=9, num_right=5, iou=0.5, label_rule="exact", pixel_mode="int", probabilities="top 20")
    curve = IsotonicCurve((0.1, 0.9), (0.0, 0.6))
    ScoreCalibration(curve, fitted, before=quality, after=quality, folds=5).write(tmp_path / "c.json")
    path, folder = write_run("other", calibration=str(tmp_path / "c.json"))
    assert run(path) == 2
    sentence = "fitted on confidences from the top 20 probabilities of each token, and these are from the probabilities of all tokens"
    assert sentence in capsys.readouterr().err
    assert not folder.exists()
    raw_file, raw = write_run("raw")
    assert run(raw_file) == 0
    apply = ["calibrate", "apply", "--calibration", str(tmp_path / "c.json"), "--pred_jsonl", str(raw), "--out", str(tmp_path / "applied.jsonl")]
    assert main(apply) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "applied.jsonl").exists()


def test_a_stock_checkpoint_without_coordinate_tokens_is_measured_in_its_own_format(write_run, tmp_path_factory, capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained one: what it writes is read without a failure; that answers are understood is a test of the reader."""
    stock = build_tiny(tmp_path_factory.mktemp("stock") / "stock", seed=0, with_coord_tokens=False)
    path, folder = write_run("native", model_checkpoint=str(stock), mode="native", limit=2, generation={"max_new_tokens": 16})
    assert run(path) == 0
    lines, manifest = read_lines(folder), read_json(folder / "resolved_config.json")
    assert [(line["mode"], line["finish_reason"], line["score_source"]) for line in lines] == [("text", "length", "token_probs")] * 2
    assert all(line["gt"] for line in lines)
    assert manifest["mode"] == manifest["prompt"]["coord_mode"] == read_json(folder / "summary.json")["mode"] == "native"
    assert (manifest["prompt"]["system"], "Locate every object" in manifest["prompt"]["user"]) == ("", True)
    for mode, sentence in (("coord", "0 of the 1000 coordinate tokens"), ("native", "no coordinate tokens to take the expectation over")):
        path, _ = write_run(f"stock-{mode}", model_checkpoint=str(stock), mode=mode, coord_decode="expectation")
        assert run(path) == 2
        assert sentence in capsys.readouterr().err


def test_exact_evaluation_compares_fractions_with_fractions(write_run, records: tuple[Path, list[Record]]) -> None:
    path, folder = write_run(stages="infer")
    assert run(path) == 0
    lines = read_lines(folder)
    for line, record in zip(lines, records[1], strict=True):
        for item, truth in zip(line["gt"], record.objects, strict=True):
            assert item["points_exact"] == pytest.approx(bins_to_pixels(truth.points, width=96, height=96))
        line["pred"] = [{key: item[key] for key in ("type", "points_exact", "desc")} | {"points": item["points_exact"]} for item in line["gt"]]
    (folder / "perfect.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for mode in ("exact", "int"):
        evaluated = folder / f"eval-{mode}"
        given = ["--pred_jsonl", str(folder / "perfect.jsonl"), "--out_dir", str(evaluated), "--label-match", "exact", "--pixel-mode", mode]
        assert main(["eval", *given]) == 0
        metrics = read_json(evaluated / "metrics.json")["metrics"]
        assert (metrics["f1_det@0.95"], metrics["mean_matched_iou"]) == (1.0, pytest.approx(1.0)), mode
