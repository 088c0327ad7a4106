"""Half an hour of Stage-2 AB, rollouts beside the training on a real vLLM server: whether memory grows, for the learner and for the server.

The tiny checkpoint learns from drawn scenes. Memory (anonymous pages) of every process is read once a second; its slope is that of the straight line through
what was read after the first third, by optimizer steps. Ends with 1 when a slope is above the bound, or the training ends with an error.

python tools/soak.py [--minutes 30] [--in-process] [--bound 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from coordexp.data.convert import to_norm1000
from coordexp.data.jsonl import write_records
from coordexp.data.synthetic import SceneSettings, render_scene
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.doctor import free_port
from coordexp.types.records import Record

STEPS = 10_000_000
"""Never reached: time ends the training."""


def write_run(folder: Path, *, minutes: float, port: int | None) -> Path:
    """The training file and its data; `port`: of the server, None: rollouts in the process of the training."""
    settings = SceneSettings(name="soak", kind="shapes", seed=3, num_scenes=64, width=96, height=96, min_side=18, max_side=40, max_objects=3)
    records = []
    for index in range(settings.num_scenes):
        scene = render_scene(settings, index)
        Image.fromarray(scene.image).save(folder / f"{index}.png")
        records.append(to_norm1000(Record("", f"{index}.png", 96, 96, scene.objects, "pixel")))
    write_records(folder / "train.jsonl", records)
    rollout: dict[str, Any] = {"max_new_tokens": 64, "rollout_infer_batch_size": 4, "decoding": {"temperature": 0.7}}
    channel: dict[str, Any] = {"mode": "sync"}
    if port is not None:
        vllm = {"mode": "server", "max_model_len": 1024, "server": {"servers": [{"base_url": f"http://127.0.0.1:{port}"}]}}
        rollout |= {"rollout_backend": "vllm", "vllm": vllm}
        channel = {"mode": "async"}
    training = {"output_dir": str(folder / "runs"), "run_name": "soak", "learning_rate": 1e-5, "max_steps": STEPS, "effective_batch_size": 2}
    training |= {"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 50, "save_total_limit": 1, "logging_steps": 1, "use_cpu": True}
    document = {
        "model": {"model": str(tiny_checkpoint()), "torch_dtype": "float32"},
        "training": training,
        "custom": {"train_jsonl": str(folder / "train.jsonl"), "trainer_variant": "stage2_ab_training"},
        "stage2_ab": {"schedule": {"b_ratio": 0.3}, "channel_b": channel},
        "rollout_matching": rollout,
        "global_max_length": 2048,
    }
    path = folder / "soak.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def family(pid: int) -> Iterator[int]:
    """A process and what it started."""
    yield pid
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def memory_of(pid: int) -> tuple[str, float]:
    """(what it is, MB of anonymous pages)"""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    command = Path(f"/proc/{pid}/cmdline").read_text()
    kind = "engine" if "EngineCore" in status["Name"] + command else "server" if "api_server" in command else "learner" if "\0train\0" in command else "other"
    return f"{kind} {pid}", int(status.get("RssAnon", "0 kB").split()[0]) / 1024


def steps_done(folder: Path) -> int:
    logs = sorted(folder.glob("runs/v*/soak/logging.jsonl"))
    lines = logs[0].read_bytes().splitlines()[-1:] if logs else []
    with suppress(ValueError, KeyError):
        return int(json.loads(lines[0])["step"]) if lines else 0
    return 0


def watch(process: subprocess.Popen[bytes], folder: Path, *, minutes: float) -> dict[str, list[tuple[int, float]]]:
    """(step, MB) of every process, once a second from the first step on, until time is over."""
    read: dict[str, list[tuple[int, float]]] = {}
    end = None
    while process.poll() is None and (end is None or time.monotonic() < end):
        time.sleep(1.0)
        step = steps_done(folder)
        if step and end is None:
            end = time.monotonic() + 60 * minutes
        for pid in family(process.pid) if step else ():
            with suppress(OSError):
                name, megabytes = memory_of(pid)
                read.setdefault(name, []).append((step, megabytes))
    return read


def slopes(read: dict[str, list[tuple[int, float]]]) -> dict[str, dict[str, float]]:
    """Of each process that was there for the last two thirds of the steps and is no helper."""
    found: dict[str, dict[str, float]] = {}
    last = max((step for points in read.values() for step, _ in points), default=0)
    for name, points in read.items():
        late = np.array([point for point in points if point[0] >= last / 3])
        if name.startswith("other") or len(late) < 10 or late[-1, 0] < last * 0.95:
            continue
        slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 100
        found[name] = {"mb_per_100_steps": round(slope, 3), "mb_first": round(float(late[0, 1]), 1), "mb_last": round(float(late[-1, 1]), 1)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of training")
    parser.add_argument("--in-process", action="store_true", help="rollouts by transformers in the process of the training")
    parser.add_argument("--bound", type=float, default=5.0, help="MB that a process may grow in 100 steps")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_run(folder, minutes=arguments.minutes, port=None if arguments.in_process else free_port())
        command = ["train", "--config", str(path)] if arguments.in_process else ["launch", "--config", str(path), "--server-gpus", "cpu", "--train-gpus", "cpu"]
        with (folder / "said").open("wb") as said:
            process = subprocess.Popen([sys.executable, "-m", "coordexp", *command], stdout=said, stderr=subprocess.STDOUT)
        read = watch(process, folder, minutes=arguments.minutes)
        ended = process.poll()
        process.terminate()
        process.wait()
        figures = {"steps": steps_done(folder), "minutes": arguments.minutes, "processes": slopes(read)}
        if ended is not None:
            sys.stderr.write((folder / "said").read_text(errors="replace")[-3000:])
    print(json.dumps(figures, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    grows = [name for name, values in figures["processes"].items() if values["mb_per_100_steps"] > arguments.bound]
    return 1 if ended is not None or grows or not figures["processes"] else 0


if __name__ == "__main__":
    sys.exit(main())
