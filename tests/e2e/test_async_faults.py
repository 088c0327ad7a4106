"""Asynchronous Stage-2 with a real vLLM server whose learner is killed, loses a rank, or finds the disk full."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.generation.server_control import Control
from coordexp.generation.server_process import ServerProcess
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_folder import list_checkpoints

from .process_groups import descendants, environment_of, is_running
from .run_logs import log_of, without_clocks

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

Maker = Callable[..., Loaded[TrainConfig]]
ASYNC = "stage2_ab.channel_b.async."


@pytest.fixture
def make_run(make_ab: Maker, vllm_server: ServerProcess) -> Maker:
    """Answers are sampled, and beside the training."""
    settings = (
        "training.report_to=none",
        "rollout_matching.max_new_tokens=64",
        "rollout_matching.decoding.temperature=0.7",
        "rollout_matching.rollout_backend=vllm",
        "rollout_matching.vllm.mode=server",
        f"rollout_matching.vllm.server.servers=[{{base_url: '{vllm_server.options.address.base_url}'}}]",
        "stage2_ab.channel_b.mode=async",
        "training.eval_strategy=no",
    )
    return lambda *overrides: make_ab(*settings, *overrides)


@contextmanager
def started(*command: str, config: Loaded[TrainConfig], said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A training in processes of its own; what is left of them in the end is killed."""
    with said.open("wb") as stream:
        arguments = [*command, "-m", "coordexp"] if not command else [*command, "--module", "coordexp"]
        whole = [sys.executable, *arguments, "train", "--config", str(config.path), *config.overrides]
        process = subprocess.Popen(whole, stdout=stream, stderr=subprocess.STDOUT)
    family = {process.pid}
    try:
        yield process
        family |= descendants(process.pid)
    finally:
        for pid in family | descendants(process.pid):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def wait_until(is_there: Callable[[], bool], *, what: str) -> None:
    end = time.monotonic() + 240
    while not is_there():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def steps_of(folder: Path) -> list[dict]:
    found = list(folder.glob("v0-*/boxes"))
    return [line for line in log_of(found[0]) if "loss" in line] if found and (found[0] / "logging.jsonl").is_file() else []


def fill(file: Path) -> None:
    """Take all the space of its disk."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


@pytest.mark.parametrize("end", ["killed", "disk full"])
def test_a_run_that_ends_in_its_middle_goes_on_with_the_server_it_had(
    make_run: Maker, vllm_server: ServerProcess, tmp_path: Path, mount_disk: Callable[[str], Path], end: str
) -> None:
    output = mount_disk("64m") if end == "disk full" else tmp_path / "output"
    config = make_run("training.max_steps=10", "training.save_steps=4", "training.save_total_limit=1", f"training.output_dir={output}")
    with started(config=config, said=tmp_path / "said") as process:
        wait_until(lambda: process.poll() is not None or len(steps_of(output)) >= 5, what="the steps behind a checkpoint")
        (run,) = output.glob("v0-*/boxes")
        if end == "killed":
            process.kill()
            assert process.wait() == -signal.SIGKILL
            # as it would be left if that happened in the middle of a push
            with contextlib.closing(Control(vllm_server.options.address, token=None, timeout_s=30)) as control:
                control.post("/pause")
                control.post("/start_weight_update")
        else:
            fill(output / "filler")
            assert process.wait(timeout=120) == 2
            (error,) = [line for line in (tmp_path / "said").read_text().splitlines() if line.startswith("error: ")]
            assert "no space left on the device" in error
            (output / "filler").unlink()
    assert vllm_server.is_running
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-4"]

    finished = run_stage1(make_run(*config.overrides, "training.resume_from_checkpoint=true"))
    steps = [line for line in log_of(finished) if line.get("mode") == "train" and "loss" in line]
    assert [line["step"] for line in steps][-6:] == list(range(5, 11))
    assert sum(line["stage2_ab/async/step_kind_b"] for line in steps[-6:]) >= 2
    assert (finished / "final" / "model.safetensors").is_file()


def test_a_rank_that_is_slow_is_waited_for_and_one_that_is_killed_ends_the_others(make_run: Maker, vllm_server: ServerProcess, tmp_path: Path) -> None:
    window = (f"{ASYNC}version_window=1", f"{ASYNC}sync_every_steps=2", "training.per_device_train_batch_size=1", "training.ddp_timeout=60")
    config = make_run("training.max_steps=500", "training.save_strategy=no", *window, f"training.output_dir={tmp_path}/output")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    with started(*torchrun, config=config, said=tmp_path / "said") as agent:
        wait_until(lambda: agent.poll() is not None or len(steps_of(tmp_path / "output")) >= 4, what="four steps")
        first, second = (next(pid for pid in descendants(agent.pid) if f"\0RANK={rank}\0" in environment_of(pid)) for rank in (0, 1))
        os.kill(second, signal.SIGSTOP)
        time.sleep(2)
        os.kill(second, signal.SIGCONT)
        before = len(steps_of(tmp_path / "output"))
        wait_until(lambda: agent.poll() is not None or len(steps_of(tmp_path / "output")) >= before + 8, what="steps after the pause")

        agent.send_signal(signal.SIGSTOP)  # which would end the other rank by itself
        os.kill(second, signal.SIGKILL)
        wait_until(lambda: not is_running(first), what="the end of the other rank")
        agent.send_signal(signal.SIGCONT)
        assert agent.wait(timeout=60) != 0
        assert not descendants(agent.pid)
    said = (tmp_path / "said").read_text()
    (error,) = [line for line in said.splitlines() if "error: " in line and "another process" in line]
    assert error.startswith("error: another process of the training has ended or does not answer (")
    assert "[rank0]: Traceback" not in said
    assert vllm_server.is_running

    steps = steps_of(tmp_path / "output")
    on_b = [line for line in steps if line["stage2_ab/async/step_kind_b"]]
    assert len(on_b) >= 3
    assert all(0 <= line["stage2_ab/async/ver_lag"] == line["stage2_ab/async/ver_current"] - line["stage2_ab/async/ver_step"] <= 1 for line in on_b)


def test_sampled_answers_in_lockstep_are_those_of_the_synchronous_form(make_run: Maker) -> None:
    settings = ("training.max_steps=4", "training.save_strategy=no", "rollout_matching.decoding.temperature=1.0")
    lockstep = ("stage2_ab.channel_b.wait_for_b=true", f"{ASYNC}version_window=0")
    one, other = run_stage1(make_run(*settings, *lockstep)), run_stage1(make_run(*settings, "stage2_ab.channel_b.mode=sync"))
    assert without_clocks(one, "stage2_ab/async/") == without_clocks(other)
    assert [line["rollout/decode_greedy"] for line in log_of(one) if line.get("stage2/channel_b")] == [0, 0]
