"""Synchronous and asynchronous Stage-2 of the tiny checkpoint with a real vLLM server on this machine: the learner on one core, the server on the others."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.data.jsonl import write_records
from coordexp.data.synthetic import SceneSettings, render_scene
from coordexp.generation.engine import find_python
from coordexp.generation.server_process import ServerOptions, ServerProcess
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.pretrain_data import scale_scene
from coordexp.recipes.doctor import free_port
from coordexp.recipes.stage1 import run_stage1
from coordexp.types.records import Record

NUM_SCENES = 64
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
            sync = read_log(run_stage1(load_config(base, TrainConfig, ["stage2_ab.channel_b.mode=sync"])))
            overlapped = read_log(run_stage1(load_config(base, TrainConfig, ["stage2_ab.channel_b.mode=async"])))
        os.sched_setaffinity(0, cores)
    last = overlapped[-1]
    discarded = last[f"{PREFIX}drop_stale_total"] + last[f"{PREFIX}drop_oldest_total"]
    figures = {f"{name}_{key}": value for name, log in (("sync", sync), ("async", overlapped)) for key, value in summarize(log).items()}
    return {
        "idle_share_sync": figures["sync_idle_share"],
        "idle_share_async": figures["async_idle_share"],
        "discarded_share": discarded / max(1.0, last[f"{PREFIX}prefetch_success_total"]),
        "step_s_sync": figures["sync_step_s"],
        "step_s_async": figures["async_step_s"],
        "speedup": figures["sync_step_s"] / figures["async_step_s"],
        "mean_generate_s": figures["async_generate_s"],
    }


def summarize(log: list[dict[str, Any]]) -> dict[str, float]:
    """By the clock of the log, without the first steps, in which everything is warmed up. Idle in synchronous form: generation on the server."""
    before, *log = log[len(log) // 5 :]
    total_s = (datetime.fromisoformat(log[-1]["time"]) - datetime.fromisoformat(before["time"])).total_seconds()
    waiting = "time/learner_idle_s" if f"{PREFIX}queue_depth" in before else "time/rollout_generate_s"
    rounds = [step["time/rollout_generate_s"] for step in log if "time/rollout_generate_s" in step]
    idle_s = sum(step.get(waiting, 0.0) for step in log)
    return {"idle_share": idle_s / total_s, "step_s": total_s / len(log), "generate_s": sum(rounds) / max(1, len(rounds))}


def read_log(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [line for line in lines if line["mode"] == "train" and "loss" in line]


def write_config(folder: Path, url: str, *, num_steps: int) -> Path:
    settings = SceneSettings(name="overlap", kind="shapes", seed=5, num_scenes=NUM_SCENES, max_objects=3)
    records = []
    for index in range(NUM_SCENES):
        sample = scale_scene(render_scene(settings, index), 96)
        Image.fromarray(sample.image).save(folder / f"{index}.png")
        records.append(Record("", f"{index}.png", 96, 96, sample.objects, "norm1000"))
    write_records(folder / "train.jsonl", records)
    file = folder / "overlap.yaml"
    file.write_text(
        f"model: {{model: {tiny_checkpoint()}, torch_dtype: float32}}\n"
        f"training: {{output_dir: {folder}/runs, run_name: overlap, learning_rate: 1.0e-5, max_steps: {num_steps}, per_device_train_batch_size: 8,"
        " effective_batch_size: 16, logging_steps: 1, save_strategy: 'no', report_to: none, use_cpu: true, seed: 3}\n"
        f"custom: {{train_jsonl: {folder}/train.jsonl, trainer_variant: stage2_ab_training}}\n"
        "stage2_ab:\n"
        "  schedule: {b_ratio: 0.5}\n"
        "  channel_b: {wait_for_b: true, async: {queue_limit: 6, prefetch_target_packs: 4, version_window: 2, sync_every_steps: 2}}\n"
        "rollout_matching:\n"
        "  rollout_backend: vllm\n"
        "  max_new_tokens: 96\n"
        "  rollout_infer_batch_size: 16\n"
        f"  vllm: {{mode: server, server: {{servers: [{{base_url: '{url}'}}]}}}}\n"
    )
    return file
