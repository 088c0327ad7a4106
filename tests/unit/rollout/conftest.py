"""Drawn scenes, the shipped model that knows them, and a backend that says what a test tells it to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.serialize import serialize_objects
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.data.jsonl import read_records
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model, placeholder_ids
from coordexp.rollout.desc import DescJudge
from coordexp.rollout.meeting import Meeting
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.producer import MatchSettings, RolloutProducer, RolloutReader, TargetSettings
from coordexp.rollout.samples import RolloutTask
from coordexp.targets.supervision import stage2_ab_table
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.records import DetObject
from coordexp.types.rollouts import GenerationSample, GenerationSettings

from .timers import WatchedTimer

torch.set_num_threads(1)


@dataclass
class ScriptedBackend:
    """Answers by the id of the request."""

    tokenizer: TextTokenizer
    answers: Mapping[str, str]
    extra_prompt_ids: tuple[int, ...] = ()
    """What it puts behind the prompt without being asked."""

    @property
    def info(self) -> BackendInfo:
        return BackendInfo("scripted", "none", None, None, "float32", "cpu", "strict")

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: GenerationRequest) -> GenerationSample:
        text = self.answers[request.id]
        prompt_ids = (*request.prompt.token_ids.tolist(), *self.extra_prompt_ids)
        return GenerationSample(prompt_ids, self.tokenizer.encode(text).ids, text, "stop", request.seed)

    def close(self) -> None:
        return None


@pytest.fixture
def timer() -> WatchedTimer:
    return WatchedTimer()


@pytest.fixture
def clock(timer: WatchedTimer) -> PolicyClock:
    return PolicyClock(Meeting(timer))


@pytest.fixture(scope="session")
def shipped() -> LoadedModel:
    return load_model(tiny_checkpoint())


@pytest.fixture(scope="session")
def tokenizer(shipped: LoadedModel) -> TextTokenizer:
    return TextTokenizer.of(shipped.tokenizer)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def source(shipped: LoadedModel, scenes_jsonl: Path) -> SegmentSource:
    return SegmentSource(
        read_records(scenes_jsonl),
        image_root=scenes_jsonl.parent,
        encoder=PromptEncoder(shipped.processor),
        tokenizer=shipped.tokenizer,  # type: ignore[arg-type]
        coord_vocab=shipped.coord_vocab,
        settings=SampleSettings(),
    )


@pytest.fixture(scope="session")
def tasks(source: SegmentSource) -> list[RolloutTask]:
    return [source.rollout_task(index, epoch=0) for index in range(len(source))]


@pytest.fixture
def make_reader(shipped: LoadedModel, tokenizer: TextTokenizer):
    """With answers: scripted; else the shipped model."""

    def make(
        answers: Mapping[str, str] | None = None,
        *,
        extra_prompt_ids: tuple[int, ...] = (),
        generation: GenerationSettings | None = None,
        matching: MatchSettings | None = None,
        monitor: DescJudge | None = None,
    ) -> RolloutReader:
        return RolloutReader(
            HfBackend(shipped, batch_size=4) if answers is None else ScriptedBackend(tokenizer, answers, extra_prompt_ids),
            tokenizer=tokenizer,
            coord_vocab=shipped.coord_vocab,
            generation=generation or GenerationSettings(max_new_tokens=160),
            forbidden_ids=placeholder_ids(shipped),
            matching=matching,
            monitor=monitor,
        )

    return make


@pytest.fixture
def make_producer(make_reader):
    def make(answers: Mapping[str, str] | None = None, *, desc_gate: DescJudge | None = None, settings: TargetSettings | None = None, **parts):
        return RolloutProducer(make_reader(answers, **parts), settings=settings or TargetSettings(table=stage2_ab_table()), desc_gate=desc_gate)

    return make


@pytest.fixture(scope="session")
def write():
    """Objects as a model writes them; `write(objects)[:-1]` breaks off before the closing brace."""

    def written(objects: Sequence[DetObject]) -> str:
        return serialize_objects(objects).text

    return written
