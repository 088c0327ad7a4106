"""The command line: light to start, one sentence for a mistake, the right exit code, nothing written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import coordexp
from coordexp.cli.evaluate import join_lists
from coordexp.cli.main import main

TRAIN_FILE = """\
model: {model: ckpt}
training:
  output_dir: out
  run_name: r
  learning_rate: 1e-4
  max_steps: 3
custom: {train_jsonl: a.jsonl}
"""
ALL_HELP = """
import sys
from coordexp.cli import main as entry
import typer

def walk(command, path):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, [*path, name])

paths = list(walk(typer.main.get_command(entry.app), []))
assert entry.main(["--help"]) == 0
assert "pydantic" not in sys.modules  # typer itself loads it for the help of a command with parameters
for path in paths:
    assert entry.main([*path, "--help"]) == 0, path
heavy = [name for name in ("torch", "transformers", "numpy", "coordexp.config.sections", "PIL", "matplotlib") if name in sys.modules]
print(len(paths), heavy, file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COORDEXP_DEBUG", raising=False)
    return tmp_path


def _run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_help_of_every_command_loads_nothing_heavy() -> None:
    result = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    count, _, heavy = result.stderr.strip().partition(" ")
    assert int(count) >= 15
    assert heavy == "[]"


def test_both_spellings_of_the_program_say_the_same_version() -> None:
    result = subprocess.run([sys.executable, "-m", "coordexp", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"coordexp {coordexp.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["train", "--config", "a.yaml", "training.max_stepz=5"], "error: command line: training.max_stepz: unknown key; did you mean training.max_steps?"),
        (["train", "--config", "gone.yaml"], "error: gone.yaml: no such file; check the path"),
        (["train", "--config", "a.yaml", "--seed"], "error: command line: cannot read the override '--seed'; write section.key=value, for example"),
        (["train"], "error: Missing option '--config'; see 'coordexp train --help'"),
        (["infer", "--mode", "auto"], "error: coordexp infer: --gt_jsonl, --model_checkpoint missing; give --config, or"),
        (
            ["infer", "--gt_jsonl", "a", "--model_checkpoint", "m", "--mode", "coords"],
            "error: --mode: infer.mode: expected coord, text, auto or native, got 'coords'; did you mean coord?",
        ),
        (
            ["infer", "--gt_jsonl", "a", "--model_checkpoint", "m", "--mode", "auto", "--backend", "vllm"],
            "error: --backend: infer.backend.base_url: is required by a vLLM server",
        ),
        (["eval", "--out_dir", "o"], "error: command line: pred_jsonl: is required; give --pred_jsonl"),
        (["eval", "--pred_jsonl", "p", "--out_dir", "o", "--iou-thrs", "high"], "error: --iou-thrs: expected numbers, got 'high'; write --iou-thrs 0.5 0.75"),
        (["eval", "--pred_jsonl", "gone.jsonl", "--out_dir", "o"], "error: gone.jsonl"),
        (["vis", "--pred_jsonl", "gone.jsonl", "--save_dir", "o"], "error: gone.jsonl"),
        (["report", "gone"], "error: gone"),
        (["evl"], "error: No such command 'evl'"),
        (["config", "show", "gone.yaml"], "error: gone.yaml: no such file; check the path"),
    ],
)
def test_a_mistake_is_one_sentence_with_exit_code_2_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    (folder / "a.yaml").write_text(TRAIN_FILE)
    code, out, err = _run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert [path.name for path in folder.rglob("*")] == ["a.yaml"]


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["nothing set", "a count of the user", "a policy of the user"],
)
def test_waiting_threads_give_a_busy_processor_away_unless_the_user_decides(given: dict[str, str], spins: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}} | given
    code = "import os; from coordexp.cli.main import main; main(['--version']); print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == str(spins)


def test_a_demo_without_its_packages_names_the_extra_that_has_all_of_them(folder: Path) -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['accelerate'] = None; from coordexp.cli.main import main; sys.exit(main(['demo']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("install it with: pip install 'coordexp[demo]'\n")
    assert list(folder.iterdir()) == []


def test_an_output_folder_that_cannot_be_written_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    line = {"image": "a.png", "width": 10, "height": 10, "mode": "coord", "coord_mode": None, "gt": [], "pred": [], "raw_output": "", "errors": []}
    (folder / "gt_vs_pred.jsonl").write_text(json.dumps(line) + "\n")
    code, _, err = _run(capsys, "eval", "--pred_jsonl", "gt_vs_pred.jsonl", "--out_dir", "file/eval")
    assert code == 2
    assert "error: file" in err.splitlines()[-1]


def test_a_flag_that_has_no_effect_is_warned_about_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "--pred_jsonl", "gone.jsonl", "--out_dir", "o", "--unknown-policy", "semantic", "--semantic-fallback", "bucket"]
    _, _, err = _run(capsys, *argv)
    assert err.count("warning: --unknown-policy and --semantic-fallback: accepted for older commands, without effect") == 1


def test_several_numbers_may_follow_one_flag() -> None:
    assert join_lists(["--iou-thrs", "0.5", "0.75", "--overlay"]) == ["--iou-thrs", "0.5,0.75", "--overlay"]
    assert join_lists(["--f1ish-iou-thrs", "0.3", "--iou-thrs", "0.5", "0.6"]) == ["--f1ish-iou-thrs", "0.3", "--iou-thrs", "0.5,0.6"]
    assert join_lists(["--semantic-threshold", "0.5"]) == ["--semantic-threshold", "0.5"]


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_traceback_is_shown_on_demand(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_variable: bool) -> None:
    if by_variable:
        monkeypatch.setenv("COORDEXP_DEBUG", "1")
    code, _, err = _run(capsys, "config", "show", "gone.yaml", *([] if by_variable else ["--debug"]))
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("error: gone.yaml: no such file; check the path\n")


def test_an_interrupted_command_ends_with_130(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    process = subprocess.Popen([sys.executable, "-m", "coordexp", "config", "show", "pipe.yaml"], stderr=subprocess.PIPE, text=True)
    writer = os.open(folder / "pipe.yaml", os.O_WRONLY)  # returns when the command reads the file, which then blocks it
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    os.close(writer)
    assert process.returncode == 130
    assert err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    (folder / "a.yaml").write_text(TRAIN_FILE)
    command = f"{sys.executable} -m coordexp config show a.yaml | head -1; echo code ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "Traceback" not in result.stderr
    assert result.stdout.splitlines()[-1] in {"code 0", "code 141"}


def test_show_prints_each_value_with_its_origin(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.yaml").write_text(TRAIN_FILE)
    code, out, _ = _run(capsys, "config", "show", "a.yaml", "training.seed=7", "training.hub_token=abc")
    lines = {line.partition(":")[0]: " ".join(line.split()) for line in out.splitlines()}
    assert code == 0
    assert lines["training.max_steps"] == "training.max_steps: 3 # a.yaml:6"
    assert lines["training.seed"] == "training.seed: 7 # command line"
    assert lines["training.packing"] == "training.packing: false # default"
    assert lines["training.hub_token"] == 'training.hub_token: "***" # command line'


def test_show_as_json_holds_values_origins_and_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.yaml").write_text(TRAIN_FILE)
    code, out, _ = _run(capsys, "config", "show", "a.yaml", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["config"]["training"]["learning_rate"] == 1e-4
    assert shown["origins"]["training.learning_rate"] == "a.yaml:5"
    assert [Path(item["path"]).name for item in shown["files"]] == ["a.yaml"]


@pytest.mark.parametrize(("kind", "key"), [("train", "training.effective_batch_size"), ("infer", "infer.generation.seed"), ("eval", "pixel_mode")])
def test_keys_lists_the_settings_of_a_kind(capsys: pytest.CaptureFixture[str], kind: str, key: str) -> None:
    code, out, _ = _run(capsys, "config", "keys", kind)
    assert code == 0
    assert any(line.startswith(f"{key}: ") for line in out.splitlines())
