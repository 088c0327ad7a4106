"""Where the study keeps its files, and how it runs the product's own commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.types.files import write_text

HERE = Path(__file__).parent
PRESET = "rescale_16_36"
"""Scenes of 192 x 192 pixels become the 96 x 96 that the shipped checkpoint knows."""
SPLITS = {"train": "shapes-dense-train", "val": "shapes-dense-val"}


@dataclass(frozen=True)
class Study:
    """Example: `Study(Path("output/stage2_gain"), budget_cpu_s=180)`"""

    folder: Path
    budget_cpu_s: float = 180.0
    """Processor seconds of training of one run."""
    prepare_steps: int = 2000
    """Of the starting checkpoint: warm-up, constant, decay to the learning rate of the study, and the rest at that one."""
    stable_steps: int = 1450
    decay_steps: int = 500
    num_scenes: Mapping[str, int] | None = None
    """By split; None: whole splits."""
    max_new_tokens: int = 512
    cpus: tuple[int, ...] = (0, 1)
    """Processors that runs are pinned to, one run on each."""
    niceness: int = 0

    def records(self, split: str) -> Path:
        return self.folder / "data" / PRESET / f"{split}.coord.jsonl"

    @property
    def start(self) -> Path:
        """The starting checkpoint."""
        return self.folder / "start"


@dataclass(frozen=True)
class Cost:
    cpu_s: float
    """User and system, of the whole process."""
    wall_s: float
    output: str


def coordexp(study: Study, arguments: Sequence[str], *, log: Path, cpu: int | None = None) -> Cost:
    """Run a command of the product in a process of its own, on one processor.

    Raises:
        SystemExit: the command failed; says where its words are.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-m", "coordexp", *arguments], stdout=stream, stderr=subprocess.STDOUT, env=environment)
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        os.setpriority(os.PRIO_PROCESS, process.pid, study.niceness)
        _, status, usage = os.wait4(process.pid, 0)
    text = log.read_text(encoding="utf-8")
    if status:
        raise SystemExit(f"coordexp {' '.join(arguments)} failed, see {log}:\n{text[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, text)


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """As the command line takes them. Example: `{"training.seed": 1}` → `["training.seed=1"]`"""
    return [f"{key}={json.dumps(value) if isinstance(value, bool | dict) else value}" for key, value in values.items()]


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
