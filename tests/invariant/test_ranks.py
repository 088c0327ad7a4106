"""One process with accumulation 4, two with 2 and four with 1 train the same model, under DDP and under FSDP2."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from coordexp.config.loading import load_config
from coordexp.config.train import TrainConfig
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_folder import list_checkpoints

WORKER = Path(__file__).with_name("rank_runs.py")
CLOCKS = ("time", "runtime", "per_second")
BY_DEVICE = {"accum/grad_steps", "accum/current_grad_steps"}
"""Forwards of one device: these differ by design."""

BASE = ("training.per_device_train_batch_size=1", "training.max_steps=5", "training.save_steps=5", "training.report_to=none")
PACKED = ("training.packing=true", "training.eval_packing=true", "global_max_length=130", "training.eval_strategy=steps", "training.eval_steps=5")
LORA = ("tuner.train_type=lora", "tuner.lora_rank=4", "training.learning_rate=3.0e-4")
KINDS = {
    "padded": BASE,
    "packed": (*BASE, *PACKED),
    "lora": (*BASE, *PACKED, *LORA),
    "bf16": (*BASE, *PACKED, "training.bf16=true"),
}
SHARDED = ("training.fsdp=full_shard", "training.save_steps=3", "training.gradient_checkpointing=true")
RANK_JOBS: dict[int, dict[str, tuple[str, ...]]] = {
    1: KINDS,
    2: {
        **{kind: KINDS[kind] for kind in ("padded", "packed", "lora")},
        **{f"{kind}-sharded": (*KINDS[kind], *SHARDED) for kind in ("packed", "lora")},
        # no checkpoint: `final` is gathered for itself
        "bf16-sharded": (*KINDS["bf16"], *SHARDED, "training.save_delay_steps=9"),
    },
    4: {kind: KINDS[kind] for kind in ("packed", "lora")},
}

torch.set_num_threads(1)


@dataclass(frozen=True)
class Trained:
    """Run folders by number of processes and name."""

    config: Path
    runs: dict[tuple[int, str], Path]

    def events(self, processes: int, name: str) -> list[dict[str, Any]]:
        """Log events without clocks, and without what is counted for one device."""
        lines = [json.loads(line) for line in (self.runs[processes, name] / "logging.jsonl").read_text().splitlines()]
        kept = [line for line in lines if "train_runtime" not in line]
        return [{key: value for key, value in line.items() if key not in BY_DEVICE and not any(clock in key for clock in CLOCKS)} for line in kept]

    def weights(self, processes: int, name: str) -> dict[str, torch.Tensor]:
        return read_weights(self.runs[processes, name])


def read_weights(run: Path) -> dict[str, torch.Tensor]:
    adapter = run / "final-adapter" / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else run / "final" / "model.safetensors")


def train(config: Path, processes: int, jobs: dict[str, tuple[str, ...]]) -> dict[str, Path]:
    """The run folder of each job; the same processes train them one behind the other."""
    wanted = {name: [*overrides, f"training.output_dir={config.parent}/{processes}-{name}"] for name, overrides in jobs.items()}
    if processes == 1:
        return {name: run_stage1(load_config(config, TrainConfig, overrides)) for name, overrides in wanted.items()}
    file = config.parent / f"jobs{processes}.json"
    file.write_text(json.dumps([[str(config), overrides] for overrides in wanted.values()]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run([*launcher, str(WORKER), str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(wanted, map(Path, json.loads(file.with_suffix(".runs").read_text())), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_stage1: Callable[[Path], Path]) -> Trained:
    config = write_stage1(tmp_path_factory.mktemp("ranks"))
    return Trained(config, {(processes, name): run for processes, jobs in RANK_JOBS.items() for name, run in train(config, processes, jobs).items()})


def assert_same_events(first: list[dict[str, Any]], second: list[dict[str, Any]], *, tolerance: float) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.pop("mode") == other.pop("mode")
        assert other == pytest.approx(one, rel=tolerance, abs=tolerance)


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], *, tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return torch.cat([(first[name] - second[name]).flatten() for name in first]).norm().item()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kind"), [(2, "padded"), (2, "packed"), (2, "lora"), (4, "packed"), (4, "lora")])
def test_the_number_of_processes_changes_neither_metrics_nor_weights(trained: Trained, processes: int, kind: str) -> None:
    alone, together = (json.loads((trained.runs[count, kind] / "run_metadata.json").read_text()) for count in (1, processes))
    assert (alone["batch"]["gradient_accumulation_steps"], together["batch"]["gradient_accumulation_steps"]) == (4, 4 // processes)
    assert_same_events(trained.events(1, kind), trained.events(processes, kind), tolerance=2e-6)
    losses = [[event["loss"] for event in trained.events(count, kind) if "loss" in event] for count in (1, processes)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert_same_weights(trained.weights(1, kind), trained.weights(processes, kind), tolerance=1e-6)


@pytest.mark.slow
def test_the_packs_of_the_processes_are_unequal_in_number(trained: Trained) -> None:
    """Four, then one: a second process has a filler in every other step, a fourth one nothing else. Else the equality would say less."""
    rows = json.loads((trained.runs[1, "packed"] / "run_metadata.json").read_text())["packing"]["train"]["rows"]
    assert rows == 5
    moved = (trained.weights(1, "padded"), trained.weights(1, "packed"))
    assert max((moved[0][name] - moved[1][name]).abs().max().item() for name in moved[0]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["packed", "lora"])
def test_a_model_that_is_split_over_processes_trains_as_a_whole_one(trained: Trained, kind: str) -> None:
    """Two packs a step on each process, gradients clipped, layers recomputed, evaluated at the end."""
    assert_same_events(trained.events(1, kind), trained.events(2, f"{kind}-sharded"), tolerance=1e-5)
    assert any("eval_loss" in event for event in trained.events(2, f"{kind}-sharded"))
    assert_same_weights(trained.weights(1, kind), trained.weights(2, f"{kind}-sharded"), tolerance=1e-5)


@pytest.mark.slow
def test_final_of_a_split_model_opens_with_transformers_alone(trained: Trained) -> None:
    alone, final = (trained.runs[key] / "final" for key in ((1, "packed"), (2, "packed-sharded")))
    assert {path.name for path in final.iterdir()} == {path.name for path in alone.iterdir()}
    opened = [AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in (alone, final)]
    assert_same_weights(*opened, tolerance=1e-5)
    assert json.loads((final / "config.json").read_text()) == json.loads((alone / "config.json").read_text())
    assert load_model(final).coord_vocab.ids == load_model(alone).coord_vocab.ids


@pytest.mark.slow
def test_a_split_model_in_bfloat16_is_as_good_as_a_whole_one(trained: Trained, tiny_folder: Path) -> None:
    """Within the rounding of bfloat16; the sums of losses themselves are not rounded to it, and the weights are kept in float32."""
    whole, split = ([event["loss"] for event in trained.events(count, name) if "loss" in event] for count, name in ((1, "bf16"), (2, "bf16-sharded")))
    assert split == pytest.approx(whole, rel=2e-3)
    assert [torch.tensor(loss).bfloat16().item() for loss in split] != split
    exact = [event["loss"] for event in trained.events(1, "packed") if "loss" in event]
    assert split != pytest.approx(exact, rel=1e-6)
    assert list_checkpoints(trained.runs[2, "bf16-sharded"]) == []
    start, alone, together = load_file(tiny_folder / "model.safetensors"), trained.weights(1, "bf16"), trained.weights(2, "bf16-sharded")
    assert {tensor.dtype for tensor in together.values()} == {torch.float32}
    assert distance(alone, together) < 0.1 * distance(alone, start)


@pytest.mark.slow
def test_split_runs_resume_as_if_they_had_not_stopped(trained: Trained) -> None:
    names = ("packed-sharded", "lora-sharded")
    before = {name: (trained.events(2, name), trained.weights(2, name)) for name in names}
    jobs: dict[str, tuple[str, ...]] = {}
    for name in names:
        run = trained.runs[2, name]
        assert [path.name for path in list_checkpoints(run)] == ["checkpoint-3", "checkpoint-5"]
        (run / "checkpoint-5" / "trainer_state.json").unlink()
        (run / "final").rename(run / "moved")
        jobs[name] = (*RANK_JOBS[2][name], "training.resume_from_checkpoint=true")
    assert train(trained.config, 2, jobs) == {name: trained.runs[2, name] for name in names}
    for name, (events, weights) in before.items():
        assert_same_events(events, trained.events(2, name), tolerance=1e-6)
        assert_same_weights(weights, trained.weights(2, name), tolerance=1e-6)
