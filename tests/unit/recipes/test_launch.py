"""Servers and a learner on one machine: what is refused before anything starts, what is started how, and that nothing stays behind."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from coordexp.generation.server_pool import ServerAddress
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.launch import Command, LaunchArguments, LaunchPlan, plan_launch, run_launch
from coordexp.types.errors import BackendError, ConfigError

GPUS = {"server_gpus": "0,1,2,3,4,5", "train_gpus": "6,7"}
ON_CPU = {"server_gpus": "cpu", "train_gpus": "cpu"}


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def make_config(tmp_path: Path, free_port: int):
    """A training file; `servers` are URLs."""

    def make(*, servers: list[str] | None = None, rollout: Mapping[str, object] | None = None, vllm: Mapping[str, object] | None = None) -> Path:
        urls = [f"http://127.0.0.1:{free_port}"] if servers is None else servers
        document = {
            "model": {"model": str(tiny_checkpoint()), "torch_dtype": "float32"},
            "training": {"output_dir": str(tmp_path / "out"), "run_name": "ab", "learning_rate": 1e-4, "max_steps": 2},
            "custom": {"trainer_variant": "stage2_ab_training", "train_jsonl": "train.coord.jsonl"},
            "stage2_ab": {"schedule": {"b_ratio": 1.0}, "coord_ce_weight": 1.0},
            "rollout_matching": {
                "rollout_backend": "vllm",
                "vllm": {"mode": "server", "server": {"servers": [{"base_url": url} for url in urls]}, **(vllm or {})},
                **(rollout or {}),
            },
        }
        path = tmp_path / "ab.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return make


def test_six_gpus_serve_and_two_train(make_config, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.delenv("no_proxy", raising=False)
    plan = plan_launch(LaunchArguments(make_config(), **GPUS, gpu_memory_utilization=0.7, overrides=("training.max_steps=1",)))
    (server,) = plan.servers
    words = " ".join(server.arguments)
    assert f"-m vllm.entrypoints.openai.api_server --model {tiny_checkpoint()}" in words
    parts = (f"--host 127.0.0.1 --port {free_port}", "--dtype float32", "--tensor-parallel-size 1", "--data-parallel-size 6", "--gpu-memory-utilization 0.7")
    assert [part for part in parts if part not in words] == []
    assert server.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5"
    assert server.log == tmp_path / f"out/rollout-server-{free_port}.log"
    learner = " ".join(plan.learner.arguments)
    assert "-m torch.distributed.run --standalone --nproc_per_node 2 --module coordexp train --config" in learner
    assert learner.endswith("training.max_steps=1")
    direct = "intern.example,127.0.0.1,localhost,::1"
    assert [plan.learner.env[name] for name in ("CUDA_VISIBLE_DEVICES", "NO_PROXY", "no_proxy")] == ["6,7", direct, direct]
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_one_process_trains_beside_one_engine(make_config) -> None:
    plan = plan_launch(LaunchArguments(make_config(), **ON_CPU))
    assert "--data-parallel-size" not in plan.servers[0].arguments
    assert plan.servers[0].env["CUDA_VISIBLE_DEVICES"] == plan.learner.env["CUDA_VISIBLE_DEVICES"] == ""
    assert plan.learner.arguments[1:4] == ("-m", "coordexp", "train")
    assert plan.learner.arguments[-1] == "training.use_cpu=true"


def test_two_servers_share_the_gpus_and_what_the_user_writes_wins_over_the_file(make_config) -> None:
    config = make_config(servers=["http://127.0.0.1:18011", "http://localhost:18012"], vllm={"tensor_parallel_size": 2, "max_model_len": 4096})
    first, second = plan_launch(LaunchArguments(config, server_gpus="0,1,2,3", train_gpus="4", enforce_eager=True, dtype="bfloat16")).servers
    assert [server.env["CUDA_VISIBLE_DEVICES"] for server in (first, second)] == ["0,1", "2,3"]
    words = " ".join(first.arguments)
    parts = ("--dtype bfloat16", "--max-model-len 4096", "--tensor-parallel-size 2", "--data-parallel-size 1", "--enforce-eager")
    assert [part for part in parts if part not in words] == []
    (one, _) = plan_launch(LaunchArguments(config, server_gpus="0,1,2,3", train_gpus="4", tensor_parallel_size=1)).servers
    assert all(part in " ".join(one.arguments) for part in ("--tensor-parallel-size 1", "--data-parallel-size 2"))


@pytest.mark.parametrize(
    ("arguments", "config", "sentence"),
    [
        ({"train_gpus": "5,6"}, {}, "GPUs 5 stand in server_gpus and in train_gpus; give each GPU to one of them"),
        ({"server_gpus": "all"}, {}, "server_gpus=all is not a list of numbers; write server_gpus=0,1 or server_gpus=cpu"),
        ({"train_gpus": "6,06"}, {}, "train_gpus=6,06 names a GPU twice"),
        ({"tensor_parallel_size": 4}, {}, "server_tp, server_dp: server_tp 4 x server_dp 1 is not the number of GPUs of a server, 6"),
        (
            {"tensor_parallel_size": 2, "data_parallel_size": 2},
            {},
            "is not the number of GPUs of a server, 6; change them, or server_gpus",
        ),
        ({**ON_CPU, "data_parallel_size": 2}, {}, "a server on a CPU is one engine; remove both"),
        ({}, {"servers": [f"http://127.0.0.1:{port}" for port in range(18021, 18025)]}, "6 GPUs cannot be shared evenly by 4 servers"),
        ({}, {"servers": ["ftp://127.0.0.1:80"]}, "'ftp://127.0.0.1:80' is no http(s) address with a port; write http://127.0.0.1:8000"),
        ({}, {"servers": ["http://127.0.0.1"]}, "is no http(s) address with a port"),
        ({}, {"servers": ["http://gpu7.example:8000"]}, "gpu7.example is not this machine; start that server there with coordexp rollout-server"),
        ({}, {"servers": ["http://127.0.0.1:18031", "http://localhost:18031"]}, "port 18031 stands twice; give each server its own"),
        (
            {},
            {"rollout": {"rollout_backend": "hf"}},
            "rollout_backend: the launcher starts vLLM servers; set it to vllm, or use scripts/train.sh",
        ),
        ({"overrides": ("model.model=Qwen/Qwen3-VL-4B-Instruct",)}, {}, "model.model: Qwen/Qwen3-VL-4B-Instruct is not a folder with a checkpoint"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(make_config, tmp_path: Path, arguments: dict, config: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_launch(LaunchArguments(make_config(**config), **{**GPUS, **arguments}))
    assert sentence in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_port_that_is_taken_is_named(make_config, free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"base_url: port {free_port} of 127.0.0.1 is taken .*; choose another port"):
            plan_launch(LaunchArguments(make_config(), **GPUS))


# --- running ---


@pytest.fixture
def make_plan(tmp_path: Path, free_port: int):
    """A real HTTP server, and a learner that is a few lines of Python."""

    def make(learner: str, *, server: tuple[str, ...] | None = None, wait_timeout_s: float = 60.0) -> LaunchPlan:
        (tmp_path / "health").write_text("")
        serve = server or (sys.executable, "-m", "http.server", str(free_port), "--bind", "127.0.0.1", "--directory", str(tmp_path))
        return LaunchPlan(
            servers=(Command("rollout server", serve, dict(os.environ), tmp_path / "server.log"),),
            addresses=(ServerAddress(f"http://127.0.0.1:{free_port}"),),
            learner=Command("learner", (sys.executable, "-c", learner), dict(os.environ)),
            wait_timeout_s=wait_timeout_s,
        )

    return make


@pytest.fixture
def is_served(free_port: int) -> Iterator[Callable[[], bool]]:
    def served() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", free_port)) == 0

    yield served
    assert not served(), "a server was left behind"


@pytest.mark.parametrize(("end", "code"), [("0", 0), ("3", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_learner_starts_when_the_server_answers_and_its_exit_code_is_that_of_all(make_plan, is_served, free_port: int, end: str, code: int) -> None:
    learner = f"import os, sys, urllib.request as u; u.urlopen('http://127.0.0.1:{free_port}/').close(); sys.exit({end})"
    said: list[str] = []
    assert run_launch(make_plan(learner), say=said.append) == code
    assert said[-1] == "rollout server: ready"


def test_a_server_that_ends_before_it_is_ready_is_an_error_with_its_last_words(make_plan, is_served) -> None:
    broken = (sys.executable, "-c", "import sys; print('no memory for 3 blocks'); sys.exit(7)")
    with pytest.raises(BackendError) as error:
        run_launch(make_plan("raise SystemExit('never started')", server=broken), say=print)
    assert "the server ended with code 7 before it was ready" in str(error.value)
    assert "no memory for 3 blocks" in str(error.value)


def test_a_server_that_does_not_get_ready_in_time_is_ended(make_plan, is_served, free_port: int) -> None:
    deaf = (sys.executable, "-c", f"import socket, time; s = socket.socket(); s.bind(('127.0.0.1', {free_port})); time.sleep(600)")
    with pytest.raises(BackendError, match="was not ready after 1 s"):
        run_launch(make_plan("", server=deaf, wait_timeout_s=1.0), say=print)


def test_a_server_that_ends_during_training_is_reported_and_the_learner_decides(make_plan, is_served, free_port: int, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import http.server, os\n"
        "class Handler(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        f"server = http.server.HTTPServer(('127.0.0.1', {free_port}), Handler)\n"
        "server.timeout = 0.05\n"
        f"while not os.path.exists({str(tmp_path / 'go')!r}): server.handle_request()\n"
        "os._exit(5)\n"
    )
    learner = f"import pathlib, time; pathlib.Path({str(tmp_path / 'go')!r}).touch(); time.sleep(1.5)"
    said: list[str] = []
    assert run_launch(make_plan(learner, server=(sys.executable, str(script))), say=said.append) == 0
    assert sum(line.startswith("warning: rollout server ended with exit code 5") for line in said) == 1


def test_ctrl_c_ends_learner_and_server(make_plan, is_served, tmp_path: Path) -> None:
    plan = make_plan(f"import pathlib, time; pathlib.Path({str(tmp_path / 'started')!r}).touch(); time.sleep(600)")
    stored = tmp_path / "plan"
    stored.write_bytes(pickle.dumps(plan))
    script = "import pickle, pathlib; from coordexp.recipes.launch import run_launch; "
    script += f"run_launch(pickle.loads(pathlib.Path({str(stored)!r}).read_bytes()), say=print)"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert process.returncode != 0
