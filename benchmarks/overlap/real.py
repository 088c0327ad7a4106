"""Synchronous and asynchronous Stage-2 of the tiny checkpoint with a real vLLM server on this machine: the learner on one core, the server on the others."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.data.synthetic import SceneSettings, write_scene_records
from coordexp.generation.engine import find_python
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.doctor import free_port
from coordexp.recipes.stage1 import run_stage1

NUM_SCENES = 64
NUM_RUNS = 2
"""Of each form."""
PREFIX = "stage2_ab/async/"


def measure(*, num_steps: int) -> dict[str, float]:
    """`idle_share_sync`, `idle_share_async`, `discarded_share`, seconds a step."""
    cores = sorted(os.sched_getaffinity(0))
    learner_cores, server_cores = cores[:1], cores[1:] or cores
    torch.set_num_threads(1)
    options = ServerOptions(model=tiny_checkpoint(), port=free_port(), dtype="float32", max_model_len=2048, max_num_seqs=32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.sched_setaffinity(0, server_cores)
        with ServerProcess(find_python(), options, log=folder / "server.log") as server:
            os.sched_setaffinity(0, learner_cores)
            server.wait_ready(timeout_s=300)
            base = write_config(folder, server.options.address.base_url, num_steps=num_steps)
            # in turn, so that other work on the machine disturbs both alike
            logs: dict[str, list[list[dict[str, Any]]]] = {}
            for mode in ("sync", "async") * NUM_RUNS:
                logs.setdefault(mode, []).append(read_log(run_stage1(load_config(base, TrainConfig, [f"stage2_ab.channel_b.mode={mode}"]))))
        os.sched_setaffinity(0, cores)
    sync, overlapped = (summarize(logs[mode]) for mode in ("sync", "async"))
    ends = [log[-1] for log in logs["async"]]
    discarded = sum(end[f"{PREFIX}drop_stale_total"] + end[f"{PREFIX}drop_oldest_total"] for end in ends)
    return {
        "idle_share_sync": sync["idle_share"],
        "idle_share_async": overlapped["idle_share"],
        "discarded_share": discarded / max(1.0, sum(end[f"{PREFIX}prefetch_success_total"] for end in ends)),
        "step_s_sync": sync["step_s"],
        "step_s_async": overlapped["step_s"],
        "round_s_sync": sync["round_s"],
        "round_s_async": overlapped["round_s"],
        "b_share_async": ends[0]["stage2_ab/b_ratio_realized"],
    }


def summarize(logs: list[list[dict[str, Any]]]) -> dict[str, float]:
    """By the clock of the logs, without the first steps of each, in which everything is warmed up. Idle in synchronous form: generation on the server."""
    idle_s = total_s = 0.0
    num_steps, rounds = 0, []
    for log in logs:
        before, *rest = log[len(log) // 5 :]
        total_s += (datetime.fromisoformat(rest[-1]["time"]) - datetime.fromisoformat(before["time"])).total_seconds()
        waiting = "time/learner_idle_s" if f"{PREFIX}queue_depth" in before else "time/rollout_generate_s"
        idle_s += sum(step.get(waiting, 0.0) for step in rest)
        num_steps += len(rest)
        rounds += [step["time/rollout_generate_s"] for step in rest if "time/rollout_generate_s" in step]
    return {"idle_share": idle_s / total_s, "step_s": total_s / num_steps, "round_s": sum(rounds) / max(1, len(rounds))}


def read_log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [line for line in lines if line["mode"] == "train" and "loss" in line]


def write_config(folder: Path, url: str, *, num_steps: int) -> Path:
    settings = SceneSettings(name="overlap", kind="shapes", seed=5, num_scenes=NUM_SCENES, max_objects=3)
    write_scene_records(settings, folder / "train.jsonl", side=96, space="norm1000")
    file = folder / "overlap.yaml"
    file.write_text(
        f"model: {{model: {tiny_checkpoint()}, torch_dtype: float32}}\n"
        f"training: {{output_dir: {folder}/runs, run_name: overlap, learning_rate: 1.0e-5, max_steps: {num_steps}, per_device_train_batch_size: 8,"
        " effective_batch_size: 16, logging_steps: 1, save_strategy: 'no', report_to: none, use_cpu: true, seed: 3}\n"
        f"custom: {{train_jsonl: {folder}/train.jsonl, trainer_variant: stage2_ab_training}}\n"
        "stage2_ab:\n"
        "  schedule: {b_ratio: 0.25}\n"
        "  channel_b: {wait_for_b: true, async: {queue_limit: 6, prefetch_target_packs: 4, version_window: 1, sync_every_steps: 4}}\n"
        "rollout_matching:\n"
        "  rollout_backend: vllm\n"
        "  max_new_tokens: 64\n"
        "  rollout_infer_batch_size: 16\n"
        f"  vllm: {{mode: server, server: {{servers: [{{base_url: '{url}'}}]}}}}\n"
    )
    return file
