"""Regression anchor of `rollout_matching_sft`: every step is a rollout; text is left alone but for the closure, slots are taught as distributions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import RunKind
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.rollouts import target_settings
from coordexp.recipes.stage1 import run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.recipes.stage2 import build_reader
from coordexp.rollout.producer import RolloutProducer
from coordexp.types.errors import ConfigError
from coordexp.types.sequences import Provenance, Role

torch.set_num_threads(1)
Stage1Maker = Callable[..., Loaded[TrainConfig]]

VLLM = "custom.extra.rollout_matching.vllm"
OFFLOAD = "custom.extra.rollout_matching.offload"
COLOCATED = ("custom.extra.rollout_matching.rollout_backend=vllm",)
SERVER_MODE = (*COLOCATED, f"{VLLM}.mode=server")


@pytest.fixture
def make_matching(make_stage1: Stage1Maker, scenes_jsonl: Path) -> Stage1Maker:
    """A run from the shipped checkpoint; overrides win."""
    settings = (
        f"model.model={tiny_checkpoint()}",
        f"custom.train_jsonl={scenes_jsonl}",
        f"custom.val_jsonl={scenes_jsonl}",
        "custom.trainer_variant=rollout_matching_sft",
        "training.learning_rate=1e-4",
        "custom.extra.rollout_matching.max_new_tokens=128",
        "custom.extra.rollout_matching.rollout_infer_batch_size=4",
    )
    return lambda *overrides: make_stage1(*settings, *overrides)


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [line for line in lines if line["mode"] == "train" and "train_runtime" not in line]


@pytest.mark.slow
def test_every_step_is_a_rollout_and_logs_the_keys_of_its_kind(make_matching: Stage1Maker) -> None:
    run = run_stage1(make_matching("training.max_steps=2", "training.eval_strategy=steps", "training.eval_steps=2"))
    steps = events(run)
    for step in steps:
        assert step["rollout/gen_new_tokens_total"] > 0
        assert step["rollout/backend_hf"] == 1
        assert step["loss/bbox_ciou"] == step["loss/bbox_smoothl1"] == 0
        assert step["loss/coord"] == pytest.approx(step["loss/coord_prefix"] + step["loss/coord_tail"])
        assert step["loss"] == pytest.approx(step["loss/ce"] + step["loss/coord"], rel=1e-5)
    logged = {key for line in (run / "logging.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert not any(key.startswith(("stage2", "loss/A", "loss/B")) for key in logged)
    needed = {spec.key for spec in REGISTRY if RunKind.ROLLOUT_MATCHING in spec.kinds and not spec.needs and spec.in_train}
    assert needed - logged - {"samples_per_second", "steps_per_second"} == set()
    assert "eval_rollout_f1" in logged


@pytest.mark.slow
def test_a_resumed_run_equals_the_straight_one_bit_for_bit(make_matching: Stage1Maker) -> None:
    settings = ("training.max_steps=4", "training.save_steps=2")
    straight = run_stage1(make_matching(*settings))
    final = load_file(straight / "final" / "model.safetensors")
    losses = [step["loss"] for step in events(straight)]
    resumed = run_stage1(make_matching(*settings, f"training.resume_from_checkpoint={straight}/checkpoint-2"))
    assert [step["loss"] for step in events(resumed)] == losses
    assert all(torch.equal(value, final[name]) for name, value in load_file(resumed / "final" / "model.safetensors").items())


@pytest.mark.slow
def test_an_optimizer_state_that_is_away_during_rollouts_changes_nothing(make_matching: Stage1Maker) -> None:
    settings = ("training.max_steps=3", "training.save_strategy=no", "training.eval_strategy=steps", "training.eval_steps=2")
    (first, second) = (
        events(run_stage1(make_matching(*settings, *offload))) for offload in ((), (f"{OFFLOAD}.enabled=true", f"{OFFLOAD}.offload_optimizer=true"))
    )
    assert [step["loss"] for step in first] == [step["loss"] for step in second]
    assert [step.get("time/offload_s", 0) > 0 for step in (*first, *second)] == [False] * 3 + [True] * 3


@pytest.mark.slow
def test_of_the_text_only_the_closure_is_taught(make_matching: Stage1Maker) -> None:
    config = make_matching().config
    parts = prepare_stage1(config)
    tasks = [parts.train.rollout_task(index, epoch=0) for index in range(len(parts.train))]
    tasks = [replace(task, objects=task.objects[::2]) for task in tasks]
    rollouts, report = RolloutProducer(build_reader(config, parts, say=print), settings=target_settings(config)).produce(tasks, seed_base=0)
    assert report.backend == "hf"
    seen = {provenance for rollout in rollouts for provenance in rollout.target.provenance}
    assert {Provenance.MATCHED, Provenance.UNMATCHED, Provenance.CLOSURE} <= seen
    for rollout in rollouts:
        target = rollout.target.target
        taught = {Role(role) for role, weight in zip(target.roles.tolist(), target.ce_weight.tolist(), strict=True) if weight > 0}
        assert taught <= {Role.CLOSE, Role.END}
        assert {slot.provenance for slot in target.slots} <= {Provenance.MATCHED, Provenance.APPENDED}
        assert len(target.slots) == len(rollout.read.task.objects)


@pytest.mark.slow
def test_polygons_are_rolled_out_matched_and_taught(make_matching: Stage1Maker, scenes_jsonl: Path) -> None:
    records = [json.loads(line) for line in scenes_jsonl.read_text().splitlines()]
    for record in records:
        for item in record["objects"]:
            x1, y1, x2, y2 = item.pop("bbox_2d")
            item["poly"] = [x1, y1, x2, y1, x2, y2, x1, y2]
    polygons = scenes_jsonl.parent / "polygons.jsonl"
    polygons.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = (f"custom.train_jsonl={polygons}", f"custom.val_jsonl={polygons}", "data.geometry_kinds=[bbox_2d,poly]")
    (step,) = events(run_stage1(make_matching("training.max_steps=1", *data)))
    assert step["rollout/fn_appended"] + step["rollout/matched_for_supervision"] == step["rollout/gt_objects"]
    assert step["loss/coord"] > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        pytest.param(("custom.coord_soft_ce_w1.enabled=false",), "has no other loss on coordinates", id="no-loss"),
        pytest.param(("rollout_matching.max_new_tokens=5",), "is the same section as custom.extra.rollout_matching", id="section-twice"),
        pytest.param(("custom.extra.rollout_matching.decode_mode=beam",), "num_beams", id="beam-of-one"),
        pytest.param(("stage2_ab.schedule.b_ratio=0.5",), "is read only by custom.trainer_variant: stage2_ab_training", id="ab-section"),
        pytest.param(SERVER_MODE, "vllm.server: is required by vllm.mode: server", id="server"),
        pytest.param((*COLOCATED, f"{VLLM}.tensor_parallel_size=2"), "tensor_parallel_size: is above 1", id="colocated-tp"),
        pytest.param((*COLOCATED, f"{VLLM}.sync.mode=adapter"), "sync.mode: mode: colocate hands over all weights", id="colocated-adapter"),
        pytest.param((*COLOCATED, f"{VLLM}.server.servers=[{{base_url: 'http://h:1'}}]"), "server: has no effect with mode: colocate", id="colocated-server"),
        pytest.param((f"{OFFLOAD}.enabled=true",), "offload.enabled: moves nothing with rollout_backend: hf", id="offload-nothing"),
        pytest.param((f"{OFFLOAD}.enabled=true", f"{OFFLOAD}.offload_model=true"), "offload.offload_model: moves the weights away, and", id="offload-hf"),
        pytest.param((*SERVER_MODE, f"{OFFLOAD}.enabled=true"), "offload.enabled: makes room on the learner's device, and", id="offload-server"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_opened(make_matching: Stage1Maker, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_matching(*overrides)


@pytest.mark.slow
def test_beam_search_rolls_out_too(make_matching: Stage1Maker) -> None:
    beams = ("custom.extra.rollout_matching.decode_mode=beam", "custom.extra.rollout_matching.num_beams=2")
    (step,) = events(run_stage1(make_matching("training.max_steps=1", *beams)))
    assert (step["rollout/decode_beam"], step["rollout/num_beams"]) == (1, 2)
    assert step["rollout/f1"] > 0.5
