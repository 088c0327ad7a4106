"""Asynchronous Stage-2 with real vLLM servers: the same training as the synchronous form where it must be, and alive when a server is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import TrainerCallback

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.generation.engine import find_python
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.doctor import free_port
from coordexp.recipes.stage1 import build_trainer, run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.recipes.stage2 import build_engine
from coordexp.training.async_loader import AsyncLoader
from coordexp.types.progress import NoProgress

from . import run_logs
from .bad_network import BadNetwork
from .process_groups import group_of
from .run_logs import log_of

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

Maker = Callable[..., Loaded[TrainConfig]]
ASYNC = "stage2_ab.channel_b.async."
LOCKSTEP = ("stage2_ab.channel_b.wait_for_b=true", f"{ASYNC}version_window=0")


@pytest.fixture
def make_ab(make_ab: Maker) -> Maker:
    """With short answers."""
    return lambda *overrides: make_ab(
        "training.report_to=none", "rollout_matching.max_new_tokens=64", "rollout_matching.rollout_infer_batch_size=7", *overrides
    )


def asynchronous(*servers: ServerProcess | BadNetwork) -> tuple[str, ...]:
    ports = [server.port if isinstance(server, BadNetwork) else server.options.port for server in servers]
    urls = ", ".join(f"{{base_url: 'http://127.0.0.1:{port}'}}" for port in ports)
    return (
        "stage2_ab.channel_b.mode=async",
        "rollout_matching.rollout_backend=vllm",
        "rollout_matching.vllm.mode=server",
        f"rollout_matching.vllm.server.servers=[{urls}]",
    )


def events(run: Path) -> list[dict[str, Any]]:
    return [line for line in log_of(run) if "train_runtime" not in line]


def without_clocks(run: Path) -> list[dict[str, Any]]:
    return run_logs.without_clocks(run, "stage2_ab/async/")


class At(TrainerCallback):
    """Does something behind a step."""

    def __init__(self, actions: Mapping[int, Callable[[], object]]) -> None:
        self._actions = actions

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._actions.get(state.global_step, lambda: None)()


class Said(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, sentence: str) -> None:
        self.lines.append(sentence)


def train(config: TrainConfig, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> tuple[AsyncLoader, list[str]]:
    """A run whose log is in `folder`; its loader, and what was said."""
    folder.mkdir(parents=True)
    said, process = Said(), PartialState(cpu=True)
    parts = prepare_stage1(config)
    engine = build_engine(config, parts, say=said.say)
    trainer, loader = build_trainer(config, parts, folder=folder, progress=said, process=process, engine=engine)
    assert isinstance(loader, AsyncLoader)
    for callback in callbacks:
        trainer.add_callback(callback)
    try:
        trainer.train()
    finally:
        loader.close()
        engine.close()
    return loader, said.lines


def assert_within_window(steps: list[dict[str, Any]], loader: AsyncLoader, window: int) -> None:
    for step in steps:
        if step["stage2_ab/async/step_kind_b"]:
            assert 0 <= step["stage2_ab/async/ver_lag"] == step["stage2_ab/async/ver_current"] - step["stage2_ab/async/ver_step"] <= window
    counts = loader.rollouts.queue.counts
    assert counts.is_complete
    assert counts.consumed == 2 * sum(step["stage2_ab/async/step_kind_b"] for step in steps)


def test_in_lockstep_it_is_the_synchronous_training_with_rollouts_by_transformers(make_ab: Maker, vllm_server: ServerProcess) -> None:
    settings = ("training.max_steps=4", "training.eval_strategy=steps", "training.eval_steps=2")
    alone, served = run_stage1(make_ab(*settings)), run_stage1(make_ab(*settings, *LOCKSTEP, *asynchronous(vllm_server)))
    assert without_clocks(served) == without_clocks(alone)
    first, second = (load_file(run / "final" / "model.safetensors") for run in (alone, served))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [step["stage2_ab/async/step_kind_b"] for step in events(served) if step["mode"] == "train"] == [0, 1, 0, 1]


def test_two_learner_processes_share_a_server(
    make_ab: Maker, vllm_server: ServerProcess, tmp_path: Path, train_with_two_processes: Callable[..., Path]
) -> None:
    settings = ("training.max_steps=4", "training.per_device_train_batch_size=1", "training.optim=sgd", "training.eval_strategy=no")
    loaded = make_ab(*settings, *LOCKSTEP, *asynchronous(vllm_server))
    both = train_with_two_processes(loaded.path, *loaded.overrides)
    alone = run_stage1(make_ab(*settings))
    for one, two in zip(without_clocks(alone), without_clocks(both), strict=True):
        same = ("loss", "loss/B/ce", "loss/A/coord", "rollout/f1", "rollout/gen_new_tokens_p90", "train/samples_total")
        assert {key: two.get(key) for key in same} == {key: pytest.approx(one[key], abs=1e-5) if key in one else None for key in same}
    first, second = (load_file(run / "final" / "model.safetensors") for run in (alone, both))
    assert max((value - second[name]).abs().max().item() for name, value in first.items()) < 1e-6


@pytest.fixture(scope="module", autouse=True)
def starting_own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """It starts while the first tests run."""
    options = ServerOptions(model=tiny_checkpoint(), port=free_port(), dtype="float32", max_model_len=2048, max_num_seqs=32)
    servers = [ServerProcess(find_python(), options, log=tmp_path_factory.mktemp("own") / "server.log")]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="module")
def own_server(starting_own_server: list[ServerProcess]) -> list[ServerProcess]:
    """A second server, which may be killed: the last of the list runs."""
    starting_own_server[0].wait_ready(timeout_s=300)
    return starting_own_server


def test_one_learner_with_two_servers_trains_the_same(make_ab: Maker, vllm_server: ServerProcess, own_server: list[ServerProcess], tmp_path: Path) -> None:
    settings = ("training.max_steps=4", "training.save_strategy=no", "training.eval_strategy=no")
    alone = run_stage1(make_ab(*settings))
    loaded = make_ab(*settings, *LOCKSTEP, *asynchronous(vllm_server, own_server[-1]))
    loader, said = train(loaded.config, tmp_path / "run")
    assert without_clocks(tmp_path / "run") == without_clocks(alone)
    assert loader.rollouts.actor.report.num_failures == 0
    assert sum("the pixels of 8 odd pictures" in line for line in said) == 2


def test_a_server_that_is_killed_and_started_again_costs_channel_b_steps_and_nothing_else(
    make_ab: Maker, own_server: list[ServerProcess], tmp_path: Path
) -> None:
    def start_again() -> None:
        own_server.append(ServerProcess(find_python(), own_server[0].options, log=tmp_path / "again.log"))
        own_server[-1].wait_ready(timeout_s=300)

    free = (f"{ASYNC}sync_every_steps=5", f"{ASYNC}version_window=2", f"{ASYNC}prefetch_target_packs=4", "stage2_ab.schedule.b_ratio=0.2")
    loaded = make_ab("training.max_steps=60", "training.save_strategy=no", "training.eval_strategy=no", *free, *asynchronous(own_server[-1]))
    loader, said = train(loaded.config, tmp_path / "run", [At({20: own_server[-1].kill, 30: start_again})])
    steps = events(tmp_path / "run")
    assert len(steps) == 60
    kinds, versions = ([step[f"stage2_ab/async/{key}"] for step in steps] for key in ("step_kind_b", "ver_current"))
    assert [step["stage2_ab/async/policy_wants_b"] for step in steps] == [float(step % 5 == 4) for step in range(60)]
    assert_within_window(steps, loader, 2)
    # at most two steps' worth of packs were left when the server went
    assert sum(kinds[20:30]) <= 2
    assert set(versions[20:30]) == {versions[19]}
    assert versions[30] == versions[19] + 1
    assert sum(kinds[30:]) >= 3
    assert loader.rollouts.queue.counts.lost == 0
    assert [line for line in said if "no server took the weights before step 20" in line]


def test_twenty_failures_of_the_network_cost_channel_b_steps_and_no_pack_is_lost_from_the_books(
    make_ab: Maker, vllm_server: ServerProcess, tmp_path: Path
) -> None:
    chance = random.Random(3)
    bad = dict.fromkeys(chance.sample(range(2, 46), 20), "down") | dict.fromkeys(chance.sample(range(2, 46), 4), "stalled")
    settings = (f"{ASYNC}sync_every_steps=2", f"{ASYNC}version_window=1", "stage2_ab.schedule.b_ratio=0.3", "stage2_ab.channel_b.on_starvation=a_only")
    timeouts = "rollout_matching.vllm.server.infer_timeout_s=2"
    with BadNetwork(("127.0.0.1", vllm_server.options.port)) as network:
        loaded = make_ab("training.max_steps=48", "training.save_strategy=no", "training.eval_strategy=no", *settings, *asynchronous(network), timeouts)
        changes = At({step: partial(setattr, network, "weather", bad.get(step, "fair")) for step in range(48)})
        loader, said = train(loaded.config, tmp_path / "run", [changes])
    steps = events(tmp_path / "run")
    assert len(steps) == 48
    assert_within_window(steps, loader, 1)
    counts = loader.rollouts.queue.counts
    assert counts.produced == counts.consumed + counts.stale + counts.queued + counts.lost
    assert counts.consumed > 0
    assert loader.rollouts.actor.report.num_failures + sum("no server took the weights" in line for line in said) >= 5


def test_an_interrupt_ends_a_run_in_the_middle_of_its_rollouts(make_ab: Maker, vllm_server: ServerProcess, tmp_path: Path) -> None:
    """Ctrl-C as the shell sends it, to the whole group; the server is not of it and goes on."""
    long = ("stage2_ab.schedule.b_ratio=1", "stage2_ab.channel_b.wait_for_b=true", "rollout_matching.max_new_tokens=1024", "training.max_steps=50")
    loaded = make_ab(*long, "training.eval_strategy=no", "training.save_strategy=no", *asynchronous(vllm_server))
    command = [sys.executable, "-m", "coordexp", "train", "--config", str(loaded.path), *loaded.overrides]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: any((tmp_path / "runs").glob("v0-*/boxes/logging.jsonl")), process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) != 0
        assert not group_of(process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert vllm_server.is_running


def wait_until(is_there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while not is_there():
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < end
        time.sleep(0.2)
