"""Runs under the Python that has vLLM: what an engine in this process answers about a few drawn scenes, as JSON in the file that is named first; and then
`coordexp infer` with the configuration that is named second, which starts an engine of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.cli.main import main
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.synthetic import SceneSettings, render_scene, scale_scene
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

SETTINGS = GenerationSettings(max_new_tokens=128)
SAMPLED = replace(SETTINGS, temperature=1.0, top_p=0.95)
GUARDED = replace(SETTINGS, repeat=RepeatLimits(min_new_tokens=8, max_object_keys=2))
CONSTRAINED = replace(SETTINGS, constraint=ConstraintSpec(labels=("animal", "red thing"), max_objects=2))
NUM_IMAGES = 12


def make_requests(loaded: LoadedModel) -> list[GenerationRequest]:
    encoder, prompt = PromptEncoder(loaded.processor), build_prompt(PromptSpec())
    settings = SceneSettings(name="server", kind="shapes", seed=5, num_scenes=NUM_IMAGES, max_objects=3)
    scenes = [scale_scene(render_scene(settings, index), 96) for index in range(NUM_IMAGES)]
    return [GenerationRequest(str(index), encoder.encode(prompt, Image.fromarray(scene.image)), seed=index) for index, scene in enumerate(scenes)]


def as_rows(samples: list[GenerationSample]) -> list[list[Any]]:
    return [[list(sample.prompt_ids), list(sample.response_ids), sample.finish_reason, sample.text] for sample in samples]


def answers(backend: VllmEngineBackend, requests: list[GenerationRequest]) -> Iterator[tuple[str, Any]]:
    yield "greedy", as_rows(backend.generate(requests, SETTINGS))
    yield "constrained", as_rows(backend.generate(requests, CONSTRAINED))
    yield "guarded", as_rows(backend.generate(requests, GUARDED))
    yield "sampled", as_rows(backend.generate(requests, SAMPLED))
    yield "reordered", as_rows(backend.generate(requests[::-1], SAMPLED)[::-1])
    yield "info", [backend.info.type, backend.info.dtype, backend.info.device]


def errors_when_broken(backend: VllmEngineBackend, requests: list[GenerationRequest]) -> list[str]:
    """The kinds of error of one attempt after the other, when every step of the engine fails."""

    def step() -> None:
        raise RuntimeError("the device is gone")

    backend.engine.llm_engine.step = step
    kinds: list[str] = []
    for _ in range(6):
        try:
            backend.generate(requests, SETTINGS)
        except BackendError as error:
            kinds.append(type(error).__name__)
    return kinds


if __name__ == "__main__":
    model = load_model(tiny_checkpoint(), dtype="float32")
    options = EngineOptions(model=tiny_checkpoint(), dtype="float32", max_model_len=2048, max_num_seqs=32, constrained=True)
    engine = VllmEngineBackend(options, facts=ModelFacts.of(model), tokenizer=model.tokenizer)  # pyright: ignore[reportArgumentType]
    found = dict(answers(engine, make_requests(model)))
    found["broken"] = errors_when_broken(engine, make_requests(model)[:1])
    engine.close()
    Path(sys.argv[1]).write_text(json.dumps(found))
    sys.exit(main(["infer", "--config", sys.argv[2]]))
