"""Whole Stage-2 runs with rollouts from a real vLLM server: the same training as with rollouts by transformers, since the answers are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1 import run_stage1
from coordexp.types.errors import BackendError, ConfigError
from coordexp.types.progress import NoProgress

from .run_logs import log_of, without_clocks

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

Maker = Callable[..., Loaded[TrainConfig]]
LORA = ("tuner.train_type=lora", "tuner.lora_rank=4")


@pytest.fixture
def make_run(make_ab: Maker) -> Maker:
    """Four steps, every other one on rollouts, and two evaluations."""
    settings = ("training.max_steps=4", "training.eval_strategy=steps", "training.eval_steps=2", "rollout_matching.max_new_tokens=96")
    return lambda *overrides: make_ab(*settings, *overrides)


@pytest.fixture
def servers(vllm_server) -> tuple[str, ...]:
    """Overrides that name the server of the tests."""
    url = vllm_server.options.address.base_url
    return (
        "rollout_matching.rollout_backend=vllm",
        "rollout_matching.vllm.mode=server",
        f"rollout_matching.vllm.server.servers=[{{base_url: '{url}'}}]",
    )


class Said(NoProgress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def test_a_run_with_a_server_trains_what_a_run_without_one_does(make_run: Maker, servers: tuple[str, ...]) -> None:
    alone, served = run_stage1(make_run()), run_stage1(make_run(*servers))

    assert without_clocks(served) == without_clocks(alone)
    first, second = (load_file(run / "final" / "model.safetensors") for run in (alone, served))
    assert all(torch.equal(first[name], second[name]) for name in first)

    steps = [line for line in log_of(served) if line["mode"] == "train" and "loss" in line]
    on_b = [line for line in steps if line["stage2/channel_b"] == 1]
    assert [line["step"] for line in on_b] == [2, 4]
    assert all(line["rollout/backend_vllm"] == 1 and line["rollout/backend_hf"] == 0 and line["time/weight_sync_s"] > 0 for line in on_b)
    assert all(line["rollout/gen_new_tokens_total"] > 0 for line in on_b)


def test_rollout_matching_runs_on_a_server_too(make_run: Maker, servers: tuple[str, ...]) -> None:
    settings = ("custom.trainer_variant=rollout_matching_sft", "stage2_ab=null", "training.max_steps=2", "training.eval_strategy=no")
    alone, served = run_stage1(make_run(*settings)), run_stage1(make_run(*settings, *servers))

    assert without_clocks(served) == without_clocks(alone)
    steps = [line for line in log_of(served) if line["mode"] == "train" and "loss" in line]
    assert all(line["rollout/backend_vllm"] == 1 and line["time/weight_sync_s"] > 0 for line in steps)


def test_two_learner_processes_share_a_server(make_run: Maker, servers: tuple[str, ...], tmp_path: Path, train_with_two_processes: Callable[..., Path]) -> None:
    """One step on each channel, and an evaluation; rank 0 pushes for both."""
    settings = ("training.max_steps=2", "training.per_device_train_batch_size=1", *servers)
    loaded = make_run(*settings)
    alone = run_stage1(loaded)
    both = train_with_two_processes(loaded.path, *loaded.overrides)

    for one, two in zip(without_clocks(alone), without_clocks(both), strict=True):
        for key in ("loss", "rollout/f1", "rollout/gen_new_tokens_total", "stage2/channel_b", "eval_rollout_f1"):
            assert two.get(key) == (pytest.approx(one[key], abs=1e-5) if key in one else None), key
    (first,), (second,) = ([line for line in log_of(run) if line.get("stage2/channel_b") == 1] for run in (alone, both))
    assert second["rollout/gen_new_tokens_total"] == first["rollout/gen_new_tokens_total"] > 0


def test_an_adapter_goes_to_the_server_merged(make_run: Maker, servers: tuple[str, ...]) -> None:
    settings = (*LORA, "tuner.use_dora=true", "custom.coord_offset.enabled=true", "stage2_ab.schedule.b_ratio=1.0", "training.max_steps=2")
    alone, served = run_stage1(make_run(*settings)), run_stage1(make_run(*settings, *servers))

    for one, other in zip(without_clocks(alone), without_clocks(served), strict=True):
        # merged weights round differently in the last bit than base and adapter one after the other
        assert other.keys() == one.keys()
        assert other.get("loss", 0.0) == pytest.approx(one.get("loss", 0.0), rel=1e-4)
        assert other.get("eval_rollout_f1") == one.get("eval_rollout_f1")


LANGUAGE = ("tuner.freeze_vit=true", "tuner.freeze_aligner=true")


@pytest.mark.parametrize("mode", ["adapter", "auto"])
def test_plain_lora_goes_to_the_server_as_an_adapter(make_run: Maker, servers: tuple[str, ...], mode: str) -> None:
    settings = (*LORA, *LANGUAGE, "stage2_ab.schedule.b_ratio=1.0", "training.max_steps=2", "training.eval_strategy=no", "training.save_strategy=no")
    said = Said()
    alone, served = run_stage1(make_run(*settings)), run_stage1(make_run(*settings, *servers, f"rollout_matching.vllm.sync.mode={mode}"), progress=said)

    for one, other in zip(without_clocks(alone), without_clocks(served), strict=True):
        assert other.get("loss", 0.0) == pytest.approx(one.get("loss", 0.0), rel=1e-4)
        assert other.get("rollout/gen_new_tokens_total") == one.get("rollout/gen_new_tokens_total")
    assert not any("all weights go to the servers" in sentence for sentence in said.sentences)


def test_an_adapter_that_the_server_refuses_goes_merged_or_ends_the_run(make_run: Maker, servers: tuple[str, ...]) -> None:
    """The server was started for ranks up to 128."""
    settings = ("tuner.train_type=lora", "tuner.lora_rank=136", *LANGUAGE, "stage2_ab.schedule.b_ratio=1.0", "training.max_steps=1")
    settings = (*settings, "training.eval_strategy=no", "training.save_strategy=no", *servers, "rollout_matching.vllm.sync.mode=adapter")
    said = Said()
    run_stage1(make_run(*settings), progress=said)
    assert any(sentence.startswith("warning: all weights go to the servers, not the adapter alone") and "136" in sentence for sentence in said.sentences)

    with pytest.raises(BackendError, match="the servers take no adapter"):
        run_stage1(make_run(*settings, "rollout_matching.vllm.sync.fallback_to_full=false"))


@pytest.mark.parametrize(
    ("settings", "obstacle"),
    [
        ((*LORA, "tuner.use_dora=true"), "the adapter is DoRA"),
        ((*LORA, "custom.coord_offset.enabled=true"), "coordinate rows are trained beside the LoRA"),
        (("custom.coord_offset.enabled=true",), "coordinate rows are trained"),
        ((), "all weights are trained"),
        (LORA, "the LoRA lies on model.visual"),
    ],
    ids=["dora", "lora and rows", "rows", "full", "vision tower"],
)
def test_an_adapter_is_not_sent_where_more_is_trained(make_run: Maker, closed_port: int, tmp_path: Path, settings: tuple[str, ...], obstacle: str) -> None:
    server = f"rollout_matching.vllm.server.servers=[{{base_url: 'http://127.0.0.1:{closed_port}'}}]"
    mode = ("rollout_matching.rollout_backend=vllm", "rollout_matching.vllm.mode=server", server, "rollout_matching.vllm.sync.mode=adapter")
    with pytest.raises(ConfigError, match=f"vllm.sync.mode: is adapter, and {obstacle}"):
        run_stage1(make_run(*settings, *mode))
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_not_there_is_one_sentence_and_no_run_folder(make_run: Maker, closed_port: int, tmp_path: Path) -> None:
    server = f"rollout_matching.vllm.server={{servers: [{{base_url: 'http://127.0.0.1:{closed_port}'}}], timeout_s: 1}}"
    with pytest.raises(BackendError, match=f"http://127.0.0.1:{closed_port}: no rollout server answers within 1 s; start it with 'coordexp rollout-server'"):
        run_stage1(make_run("rollout_matching.rollout_backend=vllm", "rollout_matching.vllm.mode=server", server))
    assert not (tmp_path / "runs").exists()
