"""One tiny model for the room, with weights loud enough that its greedy text varies."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.generation.protocol import GenerationRequest
from coordexp.models.load import LoadedModel, load_model
from coordexp.models.tiny import build_tiny

torch.set_num_threads(1)

RequestMaker = Callable[..., list[GenerationRequest]]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    loaded = load_model(build_tiny(tmp_path_factory.mktemp("generation") / "tiny", seed=0))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return loaded


@pytest.fixture(scope="session")
def make_requests(tiny: LoadedModel) -> RequestMaker:
    """Requests for noise images of the given (width, height); the id of each is its place."""
    encoder = PromptEncoder(tiny.processor)

    def make(*sizes: tuple[int, int], labels: tuple[str, ...] | None = None) -> list[GenerationRequest]:
        requests: list[GenerationRequest] = []
        for number, (width, height) in enumerate(sizes):
            pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
            names = labels[: number + 1] if labels else None
            prompt = encoder.encode(build_prompt(PromptSpec(labels=names)), Image.fromarray(pixels))
            requests.append(GenerationRequest(id=str(number), prompt=prompt, seed=1000 + number))
        return requests

    return make
