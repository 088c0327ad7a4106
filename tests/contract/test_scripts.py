"""The wrappers: what they run, from any folder, and how they refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """An interpreter that only says what it was asked to run."""
    script = tmp_path / "echo-python"
    script.write_text('#!/bin/sh\necho "CUDA=${CUDA_VISIBLE_DEVICES-unset} $*"\n')
    script.chmod(0o755)
    return script


def _run(script: str, *args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    return subprocess.run(["bash", str(REPO / "scripts" / script), *args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("args", "command"),
    [
        (["config=a.yaml"], "CUDA=unset -m coordexp train --config a.yaml"),
        (["config=a.yaml", "gpus=1"], "CUDA=1 -m coordexp train --config a.yaml"),
        (["config=a.yaml", "gpus=0,1"], "CUDA=0,1 -m torch.distributed.run --standalone --nproc_per_node 2 --module coordexp train --config a.yaml"),
        (["config=a.yaml", "gpus=cpu", "training.max_steps=5"], "CUDA= -m coordexp train --config a.yaml training.use_cpu=true training.max_steps=5"),
    ],
)
def test_train_starts_one_process_for_each_gpu(tmp_path: Path, echo: Path, args: list[str], command: str) -> None:
    (tmp_path / "a.yaml").write_text("")
    result = _run("train.sh", *args, cwd=tmp_path, PYTHON=str(echo))
    assert (result.returncode, result.stdout.strip()) == (0, command)


def test_train_finds_a_shipped_file_from_any_folder(tmp_path: Path, echo: Path) -> None:
    result = _run("train.sh", "config=configs/stage1/mixed.yaml", cwd=tmp_path, PYTHON=str(echo))
    assert result.stdout.strip().endswith(f"--config {REPO}/configs/stage1/mixed.yaml")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "error: config is missing; write: bash scripts/train.sh config=<yaml> gpus=0,1"),
        (["config=a.yaml", "gpu=0"], "error: unknown argument 'gpu'; known: config gpus (and settings such as training.max_steps=5)"),
        (["config=a.yaml", "gpus=all"], "error: gpus=all is not a list of numbers; write gpus=0,1 or gpus=cpu"),
        (["a.yaml"], "error: cannot read 'a.yaml'; write key=value with one of: config gpus "),
    ],
)
def test_train_refuses_with_one_sentence(tmp_path: Path, echo: Path, args: list[str], sentence: str) -> None:
    result = _run("train.sh", *args, cwd=tmp_path, PYTHON=str(echo))
    assert (result.returncode, result.stderr) == (2, sentence + "\n")


def test_infer_eval_hands_its_variables_on(tmp_path: Path, echo: Path) -> None:
    env = {"CKPT": "m", "GT_JSONL": "v.jsonl", "OUTPUT_BASE_DIR": "o", "MODE": "auto", "PRED_COORD_MODE": "auto", "DEVICE": "cpu", "LIMIT": "10"}
    more = {"OVERLAY": "0", "NUM_WORKERS": "0", "IOU_THRS": "0.5 0.75", "USE_SEGM": "0", "SEED": "7"}
    result = _run("run_infer_eval.sh", cwd=tmp_path, PYTHON=str(echo), **env, **more)
    infer, evaluation = result.stdout.splitlines()
    assert infer.endswith(
        "-m coordexp infer --gt_jsonl v.jsonl --model_checkpoint m --mode auto --out o/gt_vs_pred.jsonl --summary o/summary.json"
        " --pred-coord-mode auto --device cpu --limit 10 --seed 7"
    )
    assert evaluation.endswith("-m coordexp eval --pred_jsonl o/gt_vs_pred.jsonl --out_dir o/eval --metrics both --no-segm --iou-thrs 0.5 0.75 --num-workers 0")


def test_vis_hands_its_variables_on(tmp_path: Path, echo: Path) -> None:
    result = _run("run_vis.sh", cwd=tmp_path, PYTHON=str(echo), PRED_JSONL="p.jsonl", SAVE_DIR="s", ROOT_IMAGE_DIR="r")
    assert result.stdout.strip().endswith("-m coordexp vis --pred_jsonl p.jsonl --save_dir s --root_image_dir r --limit 20")


@pytest.mark.parametrize(("script", "name"), [("run_vis.sh", "PRED_JSONL"), ("run_infer_eval.sh", "CKPT")])
def test_a_wrapper_names_the_variable_that_is_missing(tmp_path: Path, script: str, name: str) -> None:
    result = _run(script, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {name} is not set; write: ")


@pytest.mark.parametrize(("script", "command"), [("run_infer.py", "infer"), ("evaluate_detection.py", "eval")])
def test_a_python_wrapper_is_its_command_from_any_folder(tmp_path: Path, script: str, command: str) -> None:
    env = {**os.environ, "PYTHONPATH": ".", "PYTHON": sys.executable}
    result = subprocess.run([sys.executable, str(REPO / "scripts" / script), "--help"], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"Usage: coordexp {command} [OPTIONS]")


@pytest.mark.parametrize(
    ("test_file", "code", "message"),
    [
        (None, 2, "error: tests/test_unified_infer_pipeline.py is missing"),
        ("def test_it():\n    assert True\n", 0, ""),
        ("def test_it():\n    assert False\n", 2, "error: tests/test_unified_infer_pipeline.py does not pass"),
    ],
    ids=["missing", "passes", "fails"],
)
@pytest.mark.slow
def test_the_gate_opens_only_when_the_regression_test_passes(tmp_path: Path, test_file: str | None, code: int, message: str) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(REPO / "scripts", repo / "scripts")
    gate = repo / "openspec/changes/refactor-src-modernization/preflight.sh"
    gate.parent.mkdir(parents=True)
    shutil.copy(REPO / gate.relative_to(repo), gate)
    (repo / "src").symlink_to(REPO / "src")
    (repo / "tests").mkdir()
    if test_file is not None:
        (repo / "tests/test_unified_infer_pipeline.py").write_text(test_file)
    result = subprocess.run(["bash", str(gate)], cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    ("args", "command"),
    [
        (
            ["server_gpus=0,1,2,3,4,5", "train_gpus=6,7", "config=a.yaml", "vllm_gpu_memory_utilization=0.70", "wait_timeout=1200"],
            "--server-gpus 0,1,2,3,4,5 --train-gpus 6,7 --config a.yaml --vllm-gpu-memory-utilization 0.70 --wait-timeout 1200",
        ),
        (
            ["config=a.yaml", "train_gpus=cpu", "server_gpus=cpu", "server_vllm_enforce_eager=true", "server_torch_dtype=bfloat16", "training.max_steps=1"],
            "--server-gpus cpu --train-gpus cpu --config a.yaml --server-torch-dtype bfloat16 --server-vllm-enforce-eager training.max_steps=1",
        ),
    ],
)
def test_the_launcher_hands_its_arguments_on(tmp_path: Path, echo: Path, args: list[str], command: str) -> None:
    (tmp_path / "a.yaml").write_text("")
    result = _run("stage2_ab_server_train.sh", *args, cwd=tmp_path, PYTHON=str(echo))
    assert (result.returncode, result.stdout.strip()) == (0, f"CUDA=unset -m coordexp launch {command}")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["config=a.yaml", "train_gpus=6,7"], "error: server_gpus is missing; write: bash scripts/stage2_ab_server_train.sh server_gpus=0,1 train_gpus=2,3"),
        (["config=a.yaml", "train_gpus=6", "server_gpus=0", "server_vllm_enforce_eager=yes"], "error: server_vllm_enforce_eager=yes is neither true nor false"),
    ],
)
def test_the_launcher_refuses_with_one_sentence(tmp_path: Path, echo: Path, args: list[str], sentence: str) -> None:
    result = _run("stage2_ab_server_train.sh", *args, cwd=tmp_path, PYTHON=str(echo))
    assert result.returncode == 2
    assert result.stderr.startswith(sentence)
    assert result.stderr.count("\n") == 1
