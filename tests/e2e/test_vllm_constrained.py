"""Constrained decoding on a real vLLM server, on this machine's CPU: the documents of transformers, and none that is malformed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
import torch

from coordexp.codec.strict import parse_rollout
from coordexp.generation import served_model
from coordexp.generation.constrained_requests import ConstraintRequest
from coordexp.generation.hf import HfBackend
from coordexp.generation.served_model import check_server
from coordexp.generation.server_pool import ServerPool
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.generation.weight_transfer import WeightPusher
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

from .engine_answers import make_requests

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

GREEDY = GenerationSettings(max_new_tokens=96, constraint=ConstraintSpec())
HOT = replace(GREEDY, temperature=2.0)
ALIKE = {
    "greedy": GREEDY,
    "labels": replace(GREEDY, constraint=ConstraintSpec(labels=("animal", "red thing"), max_objects=2)),
    "polygons": replace(GREEDY, constraint=ConstraintSpec(kinds=("poly",), field_order="geometry_first")),
    "no room": replace(GREEDY, max_new_tokens=18),
    "penalty": replace(GREEDY, repetition_penalty=1.2),
    "loop guard": replace(GREEDY, repeat=RepeatLimits(min_new_tokens=4, max_object_keys=1)),
}


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(tiny_checkpoint(), dtype="float32")


@pytest.fixture
def client(vllm_server, loaded: LoadedModel) -> Iterator[VllmServerBackend]:
    pool = ServerPool([vllm_server.options.address])
    backend = VllmServerBackend(pool, facts=ModelFacts.of(loaded), tokenizer=loaded.tokenizer)  # pyright: ignore[reportArgumentType]
    pusher = WeightPusher(pool, transfer="auto")
    pusher.push(loaded.model.named_parameters(), 0)
    pusher.close()
    yield backend
    backend.close()


def malformed(samples: list[GenerationSample], loaded: LoadedModel) -> int:
    parsed = [parse_rollout(sample.response_ids, tokenizer=loaded.tokenizer, coord_vocab=loaded.coord_vocab, allow_poly=True) for sample in samples]  # pyright: ignore[reportArgumentType]
    return sum(bool(one.dropped or one.num_ambiguous or one.is_invalid or one.is_truncated) for one in parsed)


@pytest.mark.parametrize("settings", ALIKE.values(), ids=ALIKE.keys())
def test_greedy_answers_are_those_of_transformers_token_for_token(client, loaded, settings: GenerationSettings) -> None:
    requests = make_requests(loaded)
    expected, found = HfBackend(loaded).generate(requests, settings), client.generate(requests, settings)
    assert [(sample.response_ids, sample.finish_reason) for sample in found] == [(sample.response_ids, sample.finish_reason) for sample in expected]
    assert malformed(found, loaded) == 0


def test_at_temperature_two_no_answer_is_malformed_and_without_the_constraint_some_are(client, loaded) -> None:
    requests = [replace(request, seed=100 * round_ + request.seed) for round_ in range(5) for request in make_requests(loaded)]
    mixed = [client.generate(requests, settings, with_trace=True) for settings in (HOT, replace(HOT, constraint=None))]
    assert (len(mixed[0]), malformed(mixed[0], loaded)) == (60, 0)
    assert malformed(mixed[1], loaded) > 0
    assert len({sample.response_ids for sample in mixed[0]}) > 50


def test_a_server_shows_that_it_has_the_processor_or_is_refused(vllm_server, loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    address, facts = vllm_server.options.address, ModelFacts.of(loaded)
    check_server(address, token=None, facts=facts, model=None, say=print, constrained=True)
    # what nobody reads is answered as if nothing had been asked, as by a server without it
    monkeypatch.setattr(served_model, "PROBE", {"unknown": 1})
    with pytest.raises(BackendError, match=r"has no processor for constrained decoding; .*--logits-processors"):
        check_server(address, token=None, facts=facts, model=None, say=print, constrained=True)
    bad = {"token_ids": [5], "sampling_params": {"max_tokens": 1, "extra_args": {"coordexp_constraint": {"spec": {}, "repeat": None}}}}
    answer = httpx.post(f"{address.base_url}/inference/v1/generate", json=bad, timeout=60, trust_env=False)
    assert answer.status_code == 400
    assert "coordexp_constraint cannot be read" in answer.text


def test_an_answer_against_its_constraint_is_an_error(client, loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a server without the processor, which leaves the constraint unseen."""
    monkeypatch.setattr(ConstraintRequest, "as_extra_args", lambda self: {})
    with pytest.raises(BackendError, match=r"no such document.*--logits-processors"):
        client.generate(make_requests(loaded), HOT)
