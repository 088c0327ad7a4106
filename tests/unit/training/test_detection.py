"""Detection during an evaluation of training: the numbers of `coordexp infer` and `coordexp eval`, without a trace in the model or the random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from coordexp.batching.prompt import PromptEncoder
from coordexp.config.infer import InferConfig
from coordexp.config.loading import load_config
from coordexp.data.jsonl import read_records
from coordexp.evaluation.evaluate import evaluate
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.metrics.detection import DETECTION_METRICS
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.recipes.infer import run_pipeline
from coordexp.training.detection import DetectionEval, spread
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import BackendError, DataError
from coordexp.types.rollouts import GenerationSample, GenerationSettings

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(tiny_checkpoint())


@pytest.fixture
def detect(scenes_jsonl: Path, loaded: LoadedModel) -> Callable[..., DetectionEval]:
    backend = HfBackend(loaded, batch_size=3)
    source = SegmentSource(
        read_records(scenes_jsonl),
        image_root=scenes_jsonl.parent,
        encoder=PromptEncoder(loaded.processor),
        tokenizer=loaded.tokenizer,  # type: ignore[arg-type]
        coord_vocab=loaded.coord_vocab,
        settings=SampleSettings(),
    )
    usual = {"tokenizer": backend.text_tokenizer, "limit": 0, "max_new_tokens": 160, "window": 3}
    return lambda backend=backend, **settings: DetectionEval(source, backend, **{**usual, **settings})


class OutOfMemory:
    """A backend on a device that is full."""

    info = BackendInfo("hf", "none", None, None, "float32", "cpu", "strict")
    num_calls = 0

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        self.num_calls += 1
        raise BackendError("the device ran out of memory while generating")

    def close(self) -> None: ...


@pytest.mark.slow
def test_the_numbers_are_those_of_infer_and_eval(detect: Callable[..., DetectionEval], scenes_jsonl: Path, tmp_path: Path) -> None:
    values = detect()()
    infer = {"gt_jsonl": scenes_jsonl, "model_checkpoint": tiny_checkpoint(), "device": "cpu", "mode": "coord", "generation.batch_size": 3}
    flags = ["run.name=r", f"run.output_dir={tmp_path}", "infer.generation.max_new_tokens=160", *(f"infer.{key}={value}" for key, value in infer.items())]
    expected = evaluate(run_pipeline(load_config(None, InferConfig, flags)).gt_vs_pred).metrics
    assert values["det_f1"] == expected["f1_det@0.50"] > 0.5
    assert (values["det_f1_miou"], values["det_f1@0.95"]) == (expected["f1_det_miou"], expected["f1_det@0.95"])
    assert (values["det_bbox_AP"], values["det_recall"]) == (expected["bbox_AP"], expected["f1_det@0.50_recall"])
    assert values["det_gt_objects"] == expected["f1_det@0.50_tp"] + expected["f1_det@0.50_fn"]
    assert values.keys() == {spec.key for spec in DETECTION_METRICS}


@pytest.mark.slow
@pytest.mark.parametrize("is_training", [True, False])
def test_neither_random_numbers_nor_the_mode_of_the_model_change(detect: Callable[..., DetectionEval], loaded: LoadedModel, is_training: bool) -> None:
    loaded.model.train(is_training)
    weights = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    detect(limit=2, max_new_tokens=8)()
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert loaded.model.training == is_training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.slow
def test_answers_that_are_cut_and_what_cannot_be_read_are_counted(detect: Callable[..., DetectionEval]) -> None:
    values = detect(limit=2, max_new_tokens=8)()
    assert (values["det_images"], values["det_truncated_rate"], values["det_pred_objects"]) == (2, 1, 0)
    assert values["det_invalid_objects"] == 2


def test_a_sample_of_which_no_image_can_be_read_has_no_answers(detect: Callable[..., DetectionEval], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *, where: str | None = None) -> None:
        raise DataError(f"the image {path} cannot be decoded", where=where)

    monkeypatch.setattr("coordexp.training.samples.load_image", refuse)
    noted: list[str] = []
    values = detect(limit=2, on_error=lambda sample_id, _: noted.append(sample_id))()
    assert (values["det_images"], values["det_truncated_rate"], values["det_pred_objects"]) == (0, 0, 0)
    assert values.keys() == {spec.key for spec in DETECTION_METRICS}
    assert len(noted) == 2


def test_a_failure_is_said_once_and_switches_it_off(detect: Callable[..., DetectionEval]) -> None:
    said: list[str] = []
    backend = OutOfMemory()
    diagnostic = detect(backend=backend, say=said.append)
    assert (diagnostic(), diagnostic()) == ({}, {})
    assert backend.num_calls == 1
    assert said == [
        "warning: detection in evaluation failed (the device ran out of memory while generating) and is switched off;"
        " lower custom.eval_detection.batch_size or max_new_tokens"
    ]


def test_a_failure_ends_a_run_that_chooses_its_checkpoint_by_it(detect: Callable[..., DetectionEval]) -> None:
    with pytest.raises(BackendError, match=r"custom\.eval_detection: .*ran out of memory.*metric_for_best_model needs it"):
        detect(backend=OutOfMemory(), is_required=True)()


@pytest.mark.parametrize(("count", "limit", "places"), [(10, 3, [0, 3, 6]), (3, 10, [0, 1, 2]), (3, 0, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (7, 1, [0])])
def test_the_sample_is_spread_over_the_set(count: int, limit: int, places: list[int]) -> None:
    assert spread(count, limit) == places
