"""The commands that users know by heart, as they type them, in a folder that has scripts and configs; what each leaves.

Stand-ins for what belongs to the user: the shipped checkpoint, drawn scenes, cpu for a GPU. The launcher's command is in `test_launcher.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordexp.models.assets import tiny_checkpoint

REPO = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the user stands."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("scripts", "configs"):
        (folder / name).symlink_to(REPO / name)
    return folder


@pytest.fixture(scope="module")
def inferred(work: Path, scenes_jsonl: Path) -> Path:
    """The folder of an inference run, made by the first command."""
    pipeline = {
        "run": {"name": "scenes", "output_dir": "output/bench_smoke"},
        "stages": {"infer": True, "eval": True, "vis": False},
        "infer": {
            "gt_jsonl": str(scenes_jsonl),
            "model_checkpoint": str(tiny_checkpoint()),
            "mode": "auto",
            "device": "cpu",
            "limit": 5,
            "backend": {"type": "hf", "torch_dtype": "float32"},
            "generation": {"temperature": 0.0, "max_new_tokens": 256, "batch_size": 4, "seed": 42},
        },
        "eval": {"metrics": "both", "label_match": "exact"},
    }
    (work / "run.yaml").write_text(yaml.safe_dump(pipeline))
    typed(work, "PYTHONPATH=. python scripts/run_infer.py --config run.yaml")
    return work / "output/bench_smoke/scenes"


def typed(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """What the shell of a user makes of it, where `python` is the environment's."""
    result = tried(folder, command)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result


def tried(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=600)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_baseline_gate_opens() -> None:
    result = typed(REPO, "bash openspec/changes/refactor-src-modernization/preflight.sh")
    assert result.stdout.endswith("preflight passed\n")


def test_inference_and_evaluation_from_one_file(inferred: Path) -> None:
    assert len(read_lines(inferred / "gt_vs_pred.jsonl")) == 5
    assert read_json(inferred / "summary.json")["total_emitted"] == 5
    config = read_json(inferred / "resolved_config.json")["config"]
    assert (config["infer"]["generation"]["seed"], config["infer"]["limit"]) == (42, 5)
    assert read_json(inferred / "eval/metrics.json")["metrics"]["f1_det@0.50"] > 0.5


def test_evaluation_alone_with_a_flag_of_older_commands(inferred: Path, work: Path) -> None:
    folder = inferred.relative_to(work)
    result = typed(
        work,
        f"PYTHONPATH=. python scripts/evaluate_detection.py --pred_jsonl {folder}/gt_vs_pred.jsonl --out_dir {folder}/eval_manual"
        " --metrics both --unknown-policy semantic --num-workers 0",
    )
    assert (result.stdout + result.stderr).count("unknown-policy") + (result.stdout + result.stderr).count("unknown_policy") == 1
    assert {path.name for path in (inferred / "eval_manual").iterdir()} >= {"metrics.json", "per_class.csv", "per_image.json", "matches.jsonl"}
    assert read_json(inferred / "eval_manual/metrics.json")["metrics"]["f1_det@0.50"] == read_json(inferred / "eval/metrics.json")["metrics"]["f1_det@0.50"]


def test_the_wrapper_of_inference_and_evaluation(work: Path, scenes_jsonl: Path) -> None:
    typed(
        work,
        f"CKPT={tiny_checkpoint()} GT_JSONL={scenes_jsonl} OUTPUT_BASE_DIR=output/bench/smoke_infer_eval"
        " MODE=auto PRED_COORD_MODE=auto DEVICE=cpu LIMIT=10 OVERLAY=0 NUM_WORKERS=0 scripts/run_infer_eval.sh",
    )
    folder = work / "output/bench/smoke_infer_eval"
    num_scenes = len(read_lines(scenes_jsonl))
    assert len(read_lines(folder / "gt_vs_pred.jsonl")) == min(10, num_scenes)
    assert read_json(folder / "summary.json")["total_emitted"] == min(10, num_scenes)
    assert read_json(folder / "eval/metrics.json")["metrics"]["f1_det@0.50"] > 0.5


def test_the_wrapper_of_pictures(inferred: Path, work: Path, scenes_jsonl: Path) -> None:
    folder = inferred.relative_to(work)
    typed(work, f"PRED_JSONL={folder}/gt_vs_pred.jsonl SAVE_DIR={folder}/vis_smoke ROOT_IMAGE_DIR={scenes_jsonl.parent} LIMIT=10 scripts/run_vis.sh")
    assert sorted(path.name for path in (inferred / "vis_smoke").glob("vis_*.png")) == [f"vis_{number:04d}.png" for number in range(5)]


@pytest.mark.parametrize("command", ["bash scripts/train.sh config=train.yaml gpus=cpu", "python -m coordexp train --config train.yaml training.use_cpu=true"])
def test_training(work: Path, scenes_jsonl: Path, command: str) -> None:
    document = {
        "extends": "configs/stage1/softce_w1_gate.yaml",
        "model": {"model": str(tiny_checkpoint()), "torch_dtype": "float32"},
        "training": {"output_dir": "output/train", "run_name": "scenes", "max_steps": 1, "logging_steps": 1, "effective_batch_size": 2, "bf16": False},
        "custom": {"train_jsonl": str(scenes_jsonl), "val_jsonl": str(scenes_jsonl)},
    }
    (work / "train.yaml").write_text(yaml.safe_dump(document))
    before = set((work / "output/train").glob("v*/scenes"))
    typed(work, command)
    (folder,) = set((work / "output/train").glob("v*/scenes")) - before
    assert read_json(folder / "run_metadata.json")["config"]["training"]["max_steps"] == 1
    assert any(event["step"] == 1 and "loss" in event for event in read_lines(folder / "logging.jsonl"))
    assert (folder / "final/model.safetensors").is_file()


def test_training_on_a_gpu_that_is_not_there_is_refused(work: Path) -> None:
    (work / "gpu.yaml").write_text(yaml.safe_dump({"extends": "configs/demo/stage1.yaml", "training": {"use_cpu": False}}))
    result = tried(work, "bash scripts/train.sh config=gpu.yaml gpus=99")
    assert result.returncode == 2
    assert result.stderr.startswith("error: CUDA_VISIBLE_DEVICES=99 names GPUs, and PyTorch sees none")
