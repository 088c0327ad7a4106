"""`coordexp infer` on a real vLLM server on this machine's CPU: given, or started with the run, or dying in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordexp.cli.main import main
from coordexp.generation import served_model
from coordexp.generation.server_pool import ServerPool
from coordexp.generation.server_process import ServerProcess
from coordexp.generation.weight_transfer import WeightPusher
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.pipeline.result_file import journal_path

from .scenes import write_scenes

pytestmark = pytest.mark.slow

NUM_IMAGES = 120


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=NUM_IMAGES)


@pytest.fixture
def infer(tmp_path: Path, data: Path) -> Callable[..., tuple[list[str], Path]]:
    """The arguments of a run, and its folder."""

    def arguments(name: str, *more: str, folder: str | None = None, **backend: Any) -> tuple[list[str], Path]:
        section = {"gt_jsonl": str(data), "model_checkpoint": str(tiny_checkpoint()), "mode": "coord", "device": "cpu", "backend": backend}
        section |= {"generation": {"max_new_tokens": 160, "batch_size": 8}}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"run": {"name": folder or name, "output_dir": str(tmp_path)}, "infer": section}))
        return ["infer", "--config", str(path), *more], tmp_path / (folder or name)

    return arguments


@pytest.fixture
def server_url(vllm_server: ServerProcess) -> str:
    """Of the shared server, with the weights of the checkpoint: an earlier test may have left others there."""
    pusher = WeightPusher(ServerPool([vllm_server.options.address]))
    pusher.push(load_model(tiny_checkpoint()).model.named_parameters(), 0)
    pusher.close()
    return vllm_server.options.address.base_url


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, data: Path) -> list[dict[str, Any]]:
    """What transformers gives."""
    folder = tmp_path_factory.mktemp("hf")
    flags = {"--gt_jsonl": data, "--model_checkpoint": tiny_checkpoint(), "--mode": "coord", "--device": "cpu", "--max_new_tokens": 160}
    assert main(["infer", *(str(part) for pair in flags.items() for part in pair), "--out", str(folder / "gt_vs_pred.jsonl")]) == 0
    return read_lines(folder)


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "gt_vs_pred.jsonl").read_text().splitlines()]


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def assert_same_records(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """The same schema on every line, and the same predictions on at least 99 % of them; those that differ are shown."""
    assert [(list(line), line["image"], line["gt"]) for line in found] == [(list(line), line["image"], line["gt"]) for line in expected]
    different = [(a["image"], a["raw_output"], b["raw_output"]) for a, b in zip(found, expected, strict=True) if a["raw_output"] != b["raw_output"]]
    assert len(different) <= 0.01 * len(expected), different
    for line, twin in zip(found, expected, strict=True):
        if line["raw_output"] == twin["raw_output"]:
            assert [(item["desc"], item["points"]) for item in line["pred"]] == [(item["desc"], item["points"]) for item in twin["pred"]]
            assert all(0 < item["score"] <= 1 for item in line["pred"])


def test_a_given_server_answers_like_transformers_with_scores_and_evaluation(infer, server_url: str, expected) -> None:
    stages = ("stages.infer=true", "stages.eval=true", "stages.vis=false", "eval.report=false")
    arguments, folder = infer("given", *stages, type="vllm", base_url=server_url)
    assert main(arguments) == 0
    found = read_lines(folder)
    assert_same_records(found, expected)
    summary = read_summary(folder)
    assert (summary["total_emitted"], summary["total_answered"], summary["determinism"]) == (NUM_IMAGES, NUM_IMAGES, "best_effort")
    assert summary["backend"]["type"] == "vllm"
    assert {line["score_source"] for line in found} == {"token_probs"}
    # the same probabilities, as far as the most probable tokens show them
    pairs = [(a, b) for line, twin in zip(found, expected, strict=True) for a, b in zip(line["pred"], twin["pred"], strict=False)]
    assert all(abs(a["score_parts"]["desc"] - b["score_parts"]["desc"]) < 0.01 for a, b in pairs)
    assert all(a["score_parts"]["coord"] < b["score_parts"]["coord"] + 0.01 for a, b in pairs)
    assert len({a["score_parts"]["coord"] for a, _ in pairs}) > len(pairs) / 2
    assert json.loads((folder / "eval" / "metrics.json").read_text())["metrics"]["f1_det@0.50"] > 0.6


def test_a_server_without_the_route_for_exact_tokens_gives_the_same_through_chat(infer, server_url: str, monkeypatch, capsys) -> None:
    """The shared server has both routes; here the run is told of a name for the first that it has not, as a plain `vllm serve` has none."""
    found = {}
    for name in ("tokens", "chat"):
        if name == "chat":
            monkeypatch.setattr(served_model, "TOKENS_PATH", "/not/there")
        arguments, folder = infer(name, "infer.limit=24", type="vllm", base_url=server_url)
        assert main(arguments) == 0
        found[name] = read_lines(folder)
        manifest = json.loads((folder / "resolved_config.json").read_text())
        assert (manifest["route"], read_summary(folder)["backend"]["route"]) == (name, name)
    assert found["chat"] == found["tokens"]
    assert sum(len(line["pred"]) for line in found["chat"]) > 24
    assert (
        f"warning: {server_url}: the server has no route /not/there, which takes exact tokens; answers come by /v1/chat/completions" in capsys.readouterr().err
    )
    arguments, _ = infer("refused", "infer.constrain=json", type="vllm", base_url=server_url)
    assert main(arguments) == 2
    assert "which takes exact tokens and constraints; start it with --enable-scale-out" in capsys.readouterr().err


def test_constrained_answers_at_temperature_two_are_documents_with_names_of_the_data(infer, server_url: str) -> None:
    hot = ("infer.constrain=json", "infer.labels=all", "infer.generation.temperature=2", "infer.limit=32")
    arguments, folder = infer("hot", *hot, type="vllm", base_url=server_url)
    assert main(arguments) == 0
    found = read_lines(folder)
    documents = [json.loads(line["raw_output"]) for line in found]
    assert read_summary(folder)["objects"]["broken"] == {}
    assert len({line["raw_output"] for line in found}) > 24
    names = {item["desc"] for line in found for item in line["gt"]}
    assert names & {entry["desc"] for document in documents for entry in document.values()}
    assert {line["score_source"] for line in found} == {"token_probs"}


def test_expected_coordinates_are_nearly_those_of_the_whole_distribution(infer, server_url: str) -> None:
    exact = {}
    for name, backend in (("hf", {}), ("vllm", {"type": "vllm", "base_url": server_url})):
        arguments, folder = infer(f"expectation-{name}", "infer.coord_decode=expectation", "infer.limit=24", **backend)
        assert main(arguments) == 0
        exact[name] = [value for line in read_lines(folder) for item in line["pred"] for value in item["points_exact"]]
    assert len(exact["hf"]) == len(exact["vllm"]) > 40
    differences = [abs(a - b) for a, b in zip(exact["hf"], exact["vllm"], strict=True)]
    assert sum(differences) / len(differences) < 0.1  # pixels; a bin is 0.095 of them


def test_a_server_that_dies_in_the_middle_costs_a_restart_and_nothing_else(infer, server_url: str, expected) -> None:
    """Started by the run itself, killed with SIGKILL; the run says so, its second start goes on with another server."""
    launched = {"type": "vllm", "auto_launch": True, "client_concurrency": 4, "server_options": {"max_model_len": 2048}, "timeout_s": 400.0}
    arguments, folder = infer("launched", folder="run", **launched)
    run = subprocess.Popen([sys.executable, "-m", "coordexp", *arguments], stderr=subprocess.PIPE, text=True)
    journal = journal_path(folder / "gt_vs_pred.jsonl")
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.05)
    servers = children_of(run.pid)
    assert servers
    for pid in servers:
        os.killpg(pid, signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "no server can be used" in errors[0]
    assert "goes on where it stopped" in errors[0]
    assert not (folder / "gt_vs_pred.jsonl").exists()
    written = len(journal.read_bytes().splitlines()) - 1
    arguments, _ = infer("given", folder="run", type="vllm", base_url=server_url, server_options={"max_model_len": 2048})
    second = subprocess.run([sys.executable, "-m", "coordexp", *arguments], stderr=subprocess.PIPE, text=True, check=True)
    assert f"goes on behind record {8 * written} of {NUM_IMAGES}" in second.stderr
    assert_same_records(read_lines(folder), expected)
    assert read_summary(folder)["total_answered"] == NUM_IMAGES


def children_of(pid: int) -> list[int]:
    """Processes that it started and that lead a group of their own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _read(entry / "stat")):
            fields = status.rpartition(")")[2].split()
            if int(fields[1]) == pid and int(fields[2]) == int(entry.name):
                found.append(int(entry.name))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended since
        return ""
