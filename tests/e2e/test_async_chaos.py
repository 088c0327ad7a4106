"""Asynchronous Stage-2 behind a network that fails again and again in one run: it trains to its end, and every pack is accounted for."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch

from coordexp.generation.server_process import ServerProcess

from .bad_network import BadNetwork, Weather
from .test_async_servers import ASYNC, At, Maker, assert_within_window, events, train

pytestmark = pytest.mark.slow
torch.set_num_threads(1)


def test_faults_cost_channel_b_steps_and_nothing_else(
    make_ab: Maker, vllm_server: ServerProcess, tmp_path: Path, long_count: Callable[[int, int], int]
) -> None:
    num_faults = long_count(8, 20)
    num_steps = 4 * num_faults
    generator = random.Random(3)
    faults = [weather for weather in get_args(Weather) if weather != "fair"]
    begins = sorted(generator.sample(range(4, num_steps - 4), num_faults))
    with BadNetwork(("127.0.0.1", vllm_server.options.port)) as network:
        actions = {step + 1: partial(setattr, network, "weather", "fair") for step in begins}
        for step, weather in zip(begins, generator.choices(faults, k=num_faults), strict=True):
            actions[step] = partial(setattr, network, "weather", weather)
        loaded = make_ab(
            f"training.max_steps={num_steps}",
            "training.save_strategy=no",
            "training.eval_strategy=no",
            "stage2_ab.schedule.b_ratio=0.5",
            "stage2_ab.channel_b.mode=async",
            "stage2_ab.channel_b.on_starvation=a_only",
            f"{ASYNC}sync_every_steps=2",
            "rollout_matching.rollout_backend=vllm",
            "rollout_matching.vllm.mode=server",
            f"rollout_matching.vllm.server.servers=[{{base_url: '{network.url}'}}]",
            "rollout_matching.vllm.server.timeout_s=1.0",
            "rollout_matching.vllm.server.infer_timeout_s=1.0",
        )
        loader, said = train(loaded.config, tmp_path / "run", [At(actions)])
    steps = events(tmp_path / "run")
    assert len(steps) == num_steps
    assert_within_window(steps, loader, 2)
    kinds = [step["stage2_ab/async/step_kind_b"] for step in steps]
    # neither did the faults go unnoticed, nor did they end Channel B
    assert any("no server took the weights" in line for line in said)
    assert loader.rollouts.actor.report.num_failures > 0
    assert 0 < sum(kinds) < num_steps / 2
    assert sum(kinds[num_steps // 2 :]) > 0
