"""Anchor: a Stage-1 run logs every metric key that is registered for its kind, and no other; keys and payloads are public."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import PartialState

from coordexp.batching.collate import Supervision
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.losses.rows import RowResult
from coordexp.metrics.docs import render_metric_docs
from coordexp.metrics.engine import ENGINE_METRICS
from coordexp.metrics.payload import MetricPayload, PayloadError, parse_line, parse_payload
from coordexp.metrics.registry import REGISTRY
from coordexp.metrics.specs import RunKind
from coordexp.recipes.stage1 import build_trainer, run_stage1
from coordexp.recipes.stage1_parts import loss_weights, prepare_stage1
from coordexp.training.diagnostics import Tally
from coordexp.training.objective import Stage1Objective
from coordexp.types.progress import NoProgress

Stage1Maker = Callable[..., Loaded[TrainConfig]]
REPO = Path(__file__).parents[1]
AT_THE_END = {"train_runtime", "train_cpu_s", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}
DETECTION, TOKEN_TYPES, COORDINATES = "custom.eval_detection.enabled", "custom.token_type_metrics.enabled", "coordinate tokens"
DETECTED = (f"{DETECTION}=true", "custom.eval_detection.limit=3", "custom.eval_detection.max_new_tokens=12")
EVALUATED = ("training.eval_strategy=steps", "training.eval_steps=3")
PACKED = ("training.packing=true", "training.eval_packing=true", "global_max_length=250", "training.effective_batch_size=2")

torch.set_num_threads(1)


@dataclass(frozen=True)
class Kind:
    """A kind of run, and what it has none of."""

    overrides: tuple[str, ...]
    without: tuple[str, ...]
    evaluates: bool = True


KINDS = {
    "everything": Kind((*EVALUATED, *DETECTED), ()),
    "coordinates-as-tokens": Kind((*EVALUATED, "custom.coord_soft_ce_w1.enabled=false"), (DETECTION,)),
    "pure-text": Kind((*EVALUATED, "custom.coord_tokens.enabled=false"), (DETECTION, COORDINATES)),
    "no-token-types": Kind((*EVALUATED, f"{TOKEN_TYPES}=false"), (DETECTION, TOKEN_TYPES)),
    "packed": Kind((*EVALUATED, *PACKED, "training.per_device_train_batch_size=1"), (DETECTION,)),
    "adapter": Kind((*EVALUATED, "tuner.train_type=lora"), (DETECTION,)),
    "no-evaluation": Kind((), (DETECTION,), evaluates=False),
}


def payloads(run: Path) -> list[MetricPayload]:
    return [parse_line(line) for line in (run / "logging.jsonl").read_text().splitlines()]


def logged(lines: list[MetricPayload], mode: str) -> set[str]:
    return {key for line in lines if line.mode == mode for key in line.metrics}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_key_of_a_kind_of_run_is_logged_and_no_other(make_stage1: Stage1Maker, name: str) -> None:
    kind = KINDS[name]
    lines = payloads(run_stage1(make_stage1("training.max_steps=3", "training.save_strategy=no", *kind.overrides)))
    assert logged(lines, "train") == set(REGISTRY.keys_of(RunKind.STAGE1, without=kind.without))
    # Trainer adds the epoch to every event
    expected = {*REGISTRY.keys_of(RunKind.STAGE1, evaluation=True, without=kind.without), "epoch"} if kind.evaluates else set()
    assert logged(lines, "eval") == expected
    assert lines[-1].metrics.keys() >= AT_THE_END
    assert [line.metrics["coord_diag/enabled"] for line in lines if "loss" in line.metrics] == [float(name != "coordinates-as-tokens")] * 3


@pytest.mark.slow
def test_counts_are_those_of_the_samples_of_each_step(make_stage1: Stage1Maker) -> None:
    """10 samples, 4 a step in forwards of 2: the third step of the epoch has one forward."""
    lines = payloads(run_stage1(make_stage1("training.max_steps=3", "training.save_strategy=no")))
    steps = [line.metrics for line in lines if "loss" in line.metrics]
    assert [(step["pack/num_samples"], step["accum/grad_steps"], step["accum/current_grad_steps"]) for step in steps] == [(2, 2, 2), (2, 2, 2), (2, 2, 1)]
    for step, samples in zip(steps, (4, 4, 2), strict=True):
        assert step["base_ce/noncoord_tokens"] == pytest.approx(samples * step["base_ce/noncoord_tokens_per_sample"])
        assert step["coord_diag/coord_tokens"] == pytest.approx(samples * step["coord_diag/coord_tokens_per_sample"])
        assert step["coord_diag/coord_tokens"] % 4 == 0


def test_trainers_own_names_are_registered() -> None:
    """What transformers adds to the events of a training and of an evaluation."""
    own = {"loss", "grad_norm", "learning_rate", "epoch", *AT_THE_END}
    assert own <= {spec.key for spec in ENGINE_METRICS if spec.in_train}
    REGISTRY.check_logged([*own, "eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"])


def test_the_page_of_metrics_is_what_the_registry_says() -> None:
    assert (REPO / "docs/training/METRICS_LOSSES.md").read_text(encoding="utf-8") == render_metric_docs()


@pytest.mark.parametrize(
    ("version", "message"),
    [
        pytest.param(None, "schema_version is None", id="none"),
        pytest.param("1", "not a whole number", id="text"),
        pytest.param(1.0, "not a whole number", id="float"),
        pytest.param(True, "not a whole number", id="bool"),
        pytest.param(2, "schema_version 2 is not 1", id="next-major"),
        pytest.param(0, "schema_version 0 is not 1", id="earlier-major"),
    ],
)
def test_a_payload_of_another_version_is_refused(version: object, message: str) -> None:
    payload = MetricPayload(mode="train", global_step=3, metrics={"loss": 2.5}).to_json()
    assert parse_payload(payload).metrics == {"loss": 2.5}
    with pytest.raises(PayloadError, match=message):
        parse_payload({**payload, "schema_version": version})


def test_a_payload_without_a_version_is_refused() -> None:
    payload = MetricPayload(mode="eval", global_step=3, metrics={"eval_loss": 2.5}).to_json()
    del payload["schema_version"]
    with pytest.raises(PayloadError, match="schema_version"):
        parse_payload(payload)


@pytest.mark.slow
def test_a_diagnostic_that_fails_in_a_run_warns_once_and_the_training_goes_on(make_stage1: Stage1Maker, tmp_path: Path) -> None:
    calls: list[int] = []

    def fails_later(tally: Tally, rows: RowResult, supervision: Supervision) -> None:
        calls.append(len(rows.text_ce))
        if len(calls) > 2:
            raise RuntimeError("no memory")

    config = make_stage1("training.max_steps=3", "training.save_strategy=no", "training.report_to=none").config
    parts = prepare_stage1(config)
    trainer, loader = build_trainer(config, parts, folder=tmp_path, progress=NoProgress(), process=PartialState(cpu=True))
    coord_ids = parts.loaded_model.coord_vocab.ids
    trainer._objective = Stage1Objective(coord_ids, weights=loss_weights(config), diagnostics={"late": fails_later})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    loader.close()
    assert [str(item.message) for item in caught if "diagnostic" in str(item.message)] == [
        "the diagnostic 'late' failed (no memory) and is switched off; training goes on without it"
    ]
    assert len(calls) == 3
    lines = payloads(tmp_path)
    assert [line.global_step for line in lines if "loss" in line.metrics] == [1, 2, 3]
    assert logged(lines, "train") == set(REGISTRY.keys_of(RunKind.STAGE1))
