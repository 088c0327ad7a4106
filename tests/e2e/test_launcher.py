"""The launcher as a user types it: a real vLLM server on the CPU, a learner beside it, one step of Channel B; and what it refuses."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordexp.models.assets import tiny_checkpoint

REPO = Path(__file__).parents[2]
SCRIPT = "scripts/stage2_ab_server_train.sh"

pytestmark = pytest.mark.slow


@pytest.fixture
def smoke(tmp_path: Path, scenes_jsonl: Path, closed_port: int):
    """A file over the shipped smoke file, with the stand-ins of a machine without GPU."""

    def make(*, channel_b: dict[str, Any] | None = None, **rollout: Any) -> Path:
        vllm = {"server": {"servers": [{"base_url": f"http://127.0.0.1:{closed_port}"}]}, "max_model_len": 2048}
        document = {
            "extends": str(REPO / "configs/stage2_ab/smoke/ab_mixed.yaml"),
            "model": {"model": str(tiny_checkpoint()), "torch_dtype": "float32"},
            "training": {"max_steps": 1, "save_strategy": "no", "eval_strategy": "no", "bf16": False, "effective_batch_size": 2, "dataloader_num_workers": 0},
            "custom": {
                "train_jsonl": str(scenes_jsonl),
                "val_jsonl": str(scenes_jsonl),
                "extra": {"rollout_matching": {"max_new_tokens": 128, "vllm": vllm, **rollout}},
            },
            "stage2_ab": {"schedule": {"b_ratio": 1.0}, "channel_b": channel_b or {}},
        }
        path = tmp_path / "smoke.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return make


def launch(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(REPO / SCRIPT), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


def processes_of(port: int) -> list[str]:
    """Command lines that name the port."""
    lines: list[str] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"--port {port}" in words:
            lines.append(words)
    return lines


def test_one_step_of_channel_b_on_a_server_of_its_own(smoke, tmp_path: Path, closed_port: int, long_count: Callable[[int, int], int]) -> None:
    """In synchronous form, and in the long form of the test once more beside the training."""
    for channel_b in ({}, {"mode": "async", "wait_for_b": True})[: long_count(1, 2)]:
        config = smoke(channel_b=channel_b)
        result = launch(tmp_path, "server_gpus=cpu", "train_gpus=cpu", f"config={config}", "vllm_gpu_memory_utilization=0.70", "wait_timeout=1200")
        assert result.returncode == 0, result.stdout + result.stderr
        folder = max((tmp_path / "output/stage2_ab/smoke/ab_mixed").glob("v*/smoke_ab_mixed"))
        assert re.fullmatch(r"v\d+-\d{8}-\d{6}", folder.parent.name)
        assert (folder / "run_metadata.json").is_file()
        (step,) = [event for event in map(json.loads, (folder / "logging.jsonl").read_text().splitlines()) if "stage2/channel_b" in event]
        assert (step["stage2/channel_b"], step["rollout/backend_vllm"]) == (1, 1)
        assert step.get("stage2_ab/async/step_kind_b") == (1 if channel_b else None)
        assert step["rollout/gen_new_tokens_total"] > 0
        assert math.isfinite(step["loss"])
        assert processes_of(closed_port) == []


def test_ctrl_c_ends_server_and_learner(smoke, tmp_path: Path, closed_port: int) -> None:
    command = ["bash", str(REPO / SCRIPT), "server_gpus=cpu", "train_gpus=cpu", f"config={smoke()}"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "starting" in line)
        while not processes_of(closed_port):
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert processes_of(closed_port) == []


@pytest.mark.parametrize(
    ("arguments", "rollout", "sentence"),
    [
        (["server_gpus=0,1", "train_gpus=1"], {}, "error: GPUs 1 stand in server_gpus and in train_gpus; give each GPU to one of them"),
        (["server_gpus=0,1,2", "train_gpus=3", "server_tp=2", "server_dp=2"], {}, "is not the number of GPUs of a server, 3"),
        (["server_gpus=cpu", "train_gpus=cpu", "model.model=missing/folder"], {}, "missing/folder is not a folder with a checkpoint"),
        (["server_gpus=cpu", "train_gpus=cpu"], {"rollout_backend": "hf"}, "the launcher starts vLLM servers; set it to vllm"),
    ],
)
def test_what_cannot_work_starts_nothing(smoke, tmp_path: Path, closed_port: int, arguments: list[str], rollout: dict, sentence: str) -> None:
    result = launch(tmp_path, f"config={smoke(**rollout)}", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert processes_of(closed_port) == []
    assert not (tmp_path / "output").exists()


def test_a_port_that_is_taken_starts_nothing(smoke, tmp_path: Path, closed_port: int) -> None:
    with socket.create_server(("127.0.0.1", closed_port)):
        result = launch(tmp_path, "server_gpus=cpu", "train_gpus=cpu", f"config={smoke()}")
    assert result.returncode == 2
    assert f"port {closed_port} of 127.0.0.1 is taken" in result.stderr
    assert not (tmp_path / "output").exists()
