"""A backend that answers from a table, and the parts around it: everything but the model is real."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.models.processor import load_processor
from coordexp.models.tiny import build_tiny
from coordexp.pipeline.infer import Inference, InferenceSettings
from coordexp.pipeline.prompting import PromptPlan
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, TokenTrace


@dataclass
class TableBackend:
    """Answers by the line number of the record; an id without an answer fails, as a batch that runs out of memory does."""

    tokenizer: TextTokenizer
    answers: Mapping[int, str]
    logprob: float | None = None
    batches: list[list[str]] = field(default_factory=list)

    @property
    def info(self) -> BackendInfo:
        return BackendInfo("table", "none", None, None, "float32", "cpu", "strict")

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        self.batches.append([request.id for request in requests])
        return [self._answer(request) for request in requests]

    def _answer(self, request: GenerationRequest) -> GenerationSample:
        text = self.answers.get(int(request.id.rpartition(":")[2]))
        if text is None:
            raise BackendError(f"no answer for {request.id}")
        ids = self.tokenizer.encode(text).ids
        trace = None if self.logprob is None else tuple(TokenTrace(self.logprob) for _ in ids)
        return GenerationSample(tuple(request.prompt.token_ids.tolist()), ids, text, "stop", request.seed, trace)

    def close(self) -> None:
        return None


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    return PromptEncoder(load_processor(build_tiny(tmp_path_factory.mktemp("pipeline") / "tiny", seed=0)))


@pytest.fixture
def make_inference(encoder: PromptEncoder, make_bpe, tmp_path: Path):
    """Inference over images in `tmp_path`."""

    def make(answers: Mapping[int, str], *, logprob: float | None = None, **changes) -> tuple[Inference, TableBackend]:
        tokenizer = TextTokenizer.of(make_bpe())
        backend = TableBackend(tokenizer, answers, logprob)
        plan = PromptPlan(PromptSpec(coord_mode=changes.get("mode", "coord")))
        values = {"mode": "coord", "pred_coord_mode": "auto", "generation": GenerationSettings(64, seed=5), "window": 2, "prompts": plan, **changes}
        return Inference(backend, encoder, tokenizer=tokenizer, settings=InferenceSettings(image_root=tmp_path, **values)), backend

    return make


@pytest.fixture
def draw(tmp_path: Path):
    """Writes a grey image of (width, height) and returns its relative path."""

    def write(name: str, width: int = 64, height: int = 32) -> str:
        Image.new("RGB", (width, height), (90, 90, 90)).save(tmp_path / name)
        return name

    return write
