"""`coordexp infer` from the outside: flags alone, and what a user gets wrong. Wrong input is one sentence, exit code 2, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from coordexp.cli.main import main

REPOSITORY = Path(__file__).parents[2]
RECORD = {"images": ["a.png"], "width": 64, "height": 32, "objects": [{"desc": "cat", "bbox_2d": [f"<|coord_{k}|>" for k in (0, 0, 999, 500)]}]}


@pytest.fixture
def flags(tmp_path: Path, tiny_folder: Path) -> dict[str, str]:
    """The flags of a run that works, below `tmp_path`."""
    Image.new("RGB", (64, 32), "gray").save(tmp_path / "a.png")
    (tmp_path / "val.jsonl").write_text(json.dumps(RECORD) + "\n")
    return {
        "--gt_jsonl": str(tmp_path / "val.jsonl"),
        "--model_checkpoint": str(tiny_folder),
        "--mode": "coord",
        "--device": "cpu",
        "--max_new_tokens": "4",
        "--out": str(tmp_path / "out" / "gt_vs_pred.jsonl"),
    }


def as_arguments(flags: dict[str, str]) -> list[str]:
    return [part for pair in flags.items() for part in pair]


def with_plain_integers(flags: dict[str, str]) -> None:
    plain = {**RECORD, "objects": [{"desc": "cat", "bbox_2d": [0, 0, 63, 16]}]}
    Path(flags["--gt_jsonl"]).write_text(json.dumps(plain) + "\n")


def without_lines(flags: dict[str, str]) -> None:
    Path(flags["--gt_jsonl"]).write_text("\n")


def below_a_file(flags: dict[str, str]) -> None:
    Path(flags["--out"]).parent.write_text("a file")


WRONG: dict[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "missing data file": (lambda flags: flags.update({"--gt_jsonl": "no/val.jsonl"}), "no/val.jsonl: the data file does not exist"),
    "empty data file": (without_lines, "the data file has no records"),
    "plain integers that do not say what they are": (with_plain_integers, "val.jsonl:1: coord_space: missing"),
    "missing checkpoint": (lambda flags: flags.update({"--model_checkpoint": "no/model"}), "no/model: no such checkpoint folder"),
    "output below a file": (below_a_file, "out"),
    "no such device": (lambda flags: flags.update({"--device": "cuda:63"}), "device cuda:63 was asked for"),
    "misspelt device": (lambda flags: flags.update({"--device": "gpu0"}), "there is no device 'gpu0'"),
    "misspelt mode": (lambda flags: flags.update({"--mode": "cord"}), "did you mean coord?"),
    "vllm without a server": (lambda flags: flags.update({"--backend": "vllm"}), "infer.backend.base_url: is required by a vLLM server"),
    "unknown host": (
        lambda flags: flags.update({"--backend": "vllm", "--vllm-base-url": "http://no.such.host.invalid:8000"}),
        "http://no.such.host.invalid:8000: no vLLM server: nothing answers there; start one with",
    ),
    "a server that is none": (lambda flags: flags.update({"--backend": "vllm", "--vllm-base-url": "127.0.0.1:8000"}), "is no http(s) address with a port"),
    "no mode": (lambda flags: flags.pop("--mode"), "--mode missing"),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_input_is_one_sentence_and_writes_nothing(case: str, flags: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, expected = WRONG[case]
    spoil(flags)
    before = sorted(tmp_path.rglob("*"))
    assert main(["infer", *as_arguments(flags)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_flags_alone_leave_all_three_files(flags: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "scripts/run_infer.py", *as_arguments(flags)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["gt_vs_pred.jsonl", "resolved_config.json", "summary.json"]
    assert "1 image:" in done.stderr


@pytest.mark.slow
def test_the_loop_guard_ends_an_answer_that_repeats_itself(flags: dict[str, str], tmp_path: Path) -> None:
    """An untrained model writes the same token forever."""
    flags["--max_new_tokens"] = "40"
    guard = ["infer.repeat_terminate.enabled=true", "infer.repeat_terminate.min_new_tokens=10", "infer.repeat_terminate.max_consecutive_token_repeats=6"]
    answers = {}
    for name, overrides in (("free", []), ("guarded", guard)):
        flags["--out"] = str(tmp_path / name / "gt_vs_pred.jsonl")
        assert main(["infer", *as_arguments(flags), *overrides]) == 0
        answers[name] = json.loads(Path(flags["--out"]).read_text())
    assert (answers["free"]["finish_reason"], answers["guarded"]["finish_reason"]) == ("length", "repeat")
    assert answers["free"]["raw_output"].startswith(answers["guarded"]["raw_output"])
    assert len(answers["guarded"]["raw_output"]) < len(answers["free"]["raw_output"])
    assert json.loads((tmp_path / "guarded" / "summary.json").read_text())["finish_reasons"] == {"repeat": 1}


@pytest.mark.slow
def test_constrained_answers_of_an_untrained_model_are_objects_with_names_of_the_list(flags: dict[str, str], tmp_path: Path) -> None:
    flags |= {"--max_new_tokens": "64", "--temperature": "2", "--config": str(tmp_path / "pipeline.yaml")}
    Path(flags["--config"]).write_text(
        f"run: {{name: hot, output_dir: {tmp_path}/runs}}\n"
        "stages: {infer: true, eval: true, vis: false}\n"
        f"infer: {{gt_jsonl: {flags['--gt_jsonl']}, model_checkpoint: {flags['--model_checkpoint']},"
        " constrain: json, labels: [cat, 'a \"dog\"'], max_objects: 2}\n"
        "eval: {report: false, label_match: exact}\n"
    )
    assert main(["infer", *as_arguments({name: flags[name] for name in ("--config", "--max_new_tokens", "--temperature", "--device", "--mode")})]) == 0

    run = tmp_path / "runs" / "hot"
    (line,) = (json.loads(text) for text in (run / "gt_vs_pred.jsonl").read_text().splitlines())
    written = json.loads(line["raw_output"])
    summary = json.loads((run / "summary.json").read_text())
    assert set(written) <= {"object_1", "object_2"}
    assert {entry["desc"] for entry in written.values()} <= {"cat", 'a "dog"'}
    assert summary["objects"]["broken"] == {}
    assert summary["backend"]["generation"]["constraint"]["labels"] == ["cat", 'a "dog"']
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    assert "prompt=none · constrain=json, 2 labels · " in metrics["protocol"]["label"]
