"""One run of an arm: train at the budget from the starting checkpoint, answer the validation set, measure. A finished run is a file and is not repeated."""

from __future__ import annotations

import hashlib
import json
import queue
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.types.errors import ConfigError
from coordexp.types.files import file_sha256
from stage2_study.arms import Arm
from stage2_study.scores import infer
from stage2_study.study import HERE, Study, coordexp, overrides_of, read_json, write_json

_GENERATED = "rollout/gen_new_tokens_total"


def settings_of(study: Study, arm: Arm, seed: int) -> dict[str, Any]:
    """What the run sets beside `study.yaml`."""
    return {
        "model.model": study.start,
        "training.output_dir": study.folder / "runs" / f"{arm.name}-s{seed}",
        "training.max_cpu_seconds": study.budget_cpu_s,
        "training.seed": seed,
        "custom.train_jsonl": study.records("train"),
        **arm.settings,
    }


def why_not(study: Study, arm: Arm) -> str | None:
    """Why the product refuses the settings of an arm; None when it takes them."""
    try:
        load_config(HERE / "study.yaml", TrainConfig, overrides_of(settings_of(study, arm, arm.seeds[0])))
    except ConfigError as error:
        return " | ".join(line.strip().split("; ")[0] for line in str(error).splitlines())
    return None


def key_of(study: Study, arm: Arm, seed: int) -> str:
    """What decides the result of a run, and the form of its file; another key: the run is repeated."""
    decisive = {
        "format": 2,
        "settings": dict(arm.settings),
        "seed": seed,
        "budget_cpu_s": study.budget_cpu_s,
        "base": (HERE / "study.yaml").read_text(encoding="utf-8"),
        "start": file_sha256(study.start / "model.safetensors"),
        "data": [file_sha256(study.records(split)) for split in ("train", "val")],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def result_path(study: Study, arm: Arm, seed: int) -> Path:
    return study.folder / "results" / f"{arm.name}-s{seed}.json"


def finished(study: Study, arm: Arm, seed: int) -> dict[str, Any] | None:
    path = result_path(study, arm, seed)
    document = read_json(path) if path.exists() else None
    return document if document is not None and document["key"] == key_of(study, arm, seed) else None


def run_arm(study: Study, arm: Arm, seed: int, *, cpu: int | None = None) -> dict[str, Any]:
    """Train, answer, measure, write the result."""
    run = _trained(study, arm, seed, cpu=cpu)
    document = {
        "key": key_of(study, arm, seed),
        "arm": arm.name,
        "stage": arm.stage,
        "what": arm.what,
        "settings": dict(arm.settings),
        "seed": seed,
        "budget_cpu_s": study.budget_cpu_s,
        "train": training_facts(run),
        "eval": infer(study, run / "final", study.folder / "scores" / f"{arm.name}-s{seed}", cpu=cpu),
    }
    write_json(result_path(study, arm, seed), document)
    return document


def _trained(study: Study, arm: Arm, seed: int, *, cpu: int | None) -> Path:
    """The run folder of the training; one that has ended is not repeated when what came after it was stopped."""
    folder, key = study.folder / "runs" / f"{arm.name}-s{seed}", key_of(study, arm, seed)
    marker = folder / "trained.json"
    if marker.exists() and read_json(marker)["key"] == key:
        return Path(read_json(marker)["run"])
    arguments = ["train", "--config", str(HERE / "study.yaml"), *overrides_of(settings_of(study, arm, seed))]
    cost = coordexp(study, arguments, log=folder / "train.log", cpu=cpu)
    run = Path(cost.output.rsplit("run folder: ", 1)[1].strip())
    write_json(marker, {"key": key, "run": str(run)})
    return run


def training_facts(run: Path) -> dict[str, float]:
    """Steps, seconds and tokens of a run whose every step was logged."""
    events = [json.loads(line) for line in (run / "logging.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [event for event in events if "loss" in event and event["mode"] == "train"]
    end = next(event for event in events if "train_runtime" in event)
    num_parameters = sum(part["total"] for part in read_json(run / "run_metadata.json")["parameters"].values())
    return {
        "steps": len(steps),
        "cpu_s": round(end["train_cpu_s"], 1),
        "wall_s": round(end["train_runtime"], 1),
        # the trainer counts 6 operations for each parameter and token of its batches, padding included, whatever the number of forwards
        "trained_tokens": round(end["total_flos"] / (6 * num_parameters)),
        "generated_tokens": round(sum(event.get(_GENERATED, 0.0) for event in steps)),
    }


def run_all(study: Study, tasks: Iterable[tuple[Arm, int]]) -> list[dict[str, Any]]:
    """All runs that are not finished, one on each processor at a time; seeds come in rounds, so that what an early stop leaves compares arms."""
    waiting = [(arm, seed) for arm, seed in tasks if finished(study, arm, seed) is None]
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for cpu in study.cpus:
        free.put(cpu)

    def one(task: tuple[Arm, int]) -> dict[str, Any]:
        arm, seed = task
        cpu = free.get()
        try:
            result = run_arm(study, arm, seed, cpu=cpu)
        finally:
            free.put(cpu)
        facts, scores = result["train"], result["eval"]
        print(
            f"{arm.name} seed {seed}: {facts['steps']:.0f} steps in {facts['cpu_s']:.0f} CPU s, {facts['wall_s']:.0f} s;"
            f" f1 {scores['f1_det@0.50']:.4f}, f1_miou {scores['f1_det_miou']:.4f}, truncated {scores['truncated']:.3f}",
            flush=True,
        )
        return result

    with ThreadPoolExecutor(len(study.cpus)) as pool:
        return list(pool.map(one, waiting))


def in_rounds(arms: Sequence[Arm], seeds: Sequence[int] | None) -> list[tuple[Arm, int]]:
    """(arm, seed), all arms with their first seed before any with its second. `seeds` None: those of each arm."""
    most = sorted({seed for arm in arms for seed in (seeds or arm.seeds)})
    return [(arm, seed) for seed in most for arm in arms if seed in (seeds or arm.seeds)]
