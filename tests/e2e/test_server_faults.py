"""A real vLLM server behind a network that fails: what the client of a learner makes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from coordexp.batching.prompt import PromptEncoder
from coordexp.data.jsonl import read_records
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.server_process import ServerProcess
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.generation.weight_transfer import WeightPusher
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.training.samples import SampleSettings, SegmentSource
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSettings

from .bad_network import BadNetwork, Weather

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

SETTINGS = GenerationSettings(max_new_tokens=64)


@dataclass
class Learner:
    loaded: LoadedModel
    network: BadNetwork
    address: ServerAddress
    pool: ServerPool
    backend: VllmServerBackend
    pusher: WeightPusher

    def push(self, version: int) -> None:
        self.pusher.push(self.loaded.model.named_parameters(), version)

    def is_lost(self) -> bool:
        return self.pool.state(self.address).needs_sync


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(tiny_checkpoint(), dtype="float32")


@pytest.fixture(scope="module")
def requests(loaded: LoadedModel, scenes_jsonl) -> list[GenerationRequest]:
    source = SegmentSource(
        read_records(scenes_jsonl),
        image_root=scenes_jsonl.parent,
        encoder=PromptEncoder(loaded.processor),
        tokenizer=loaded.tokenizer,
        coord_vocab=loaded.coord_vocab,
        settings=SampleSettings(),
    )
    tasks = [source.rollout_task(index, epoch=0) for index in range(len(source))]
    return [GenerationRequest(task.sample_id, task.prompt, seed=number) for number, task in enumerate(tasks)]


@pytest.fixture
def learner(loaded: LoadedModel, vllm_server: ServerProcess) -> Iterator[Learner]:
    with BadNetwork(("127.0.0.1", vllm_server.options.port)) as network:
        address = ServerAddress(network.url)
        pool = ServerPool([address])
        backend = VllmServerBackend(pool, facts=ModelFacts.of(loaded), tokenizer=loaded.tokenizer, answer_timeout_s=3.0)
        learner = Learner(loaded, network, address, pool, backend, WeightPusher(pool, timeout_s=3.0))
        learner.push(1)
        yield learner
        network.weather = "fair"
        learner.push(1)  # whatever was broken off: the server goes on for the other tests
        learner.pusher.close()
        backend.close()


@pytest.mark.parametrize(
    ("weather", "said"),
    [
        ("down", "nothing answers there|the connection broke|Server disconnected"),
        ("garbage", "its answer cannot be read"),
        ("stalled", "did not answer in time"),
    ],
)
def test_a_server_that_fails_is_lost_and_asked_nothing_until_it_has_the_weights(learner: Learner, requests, weather: Weather, said: str) -> None:
    expected = learner.backend.generate(requests, SETTINGS)
    learner.network.weather = weather
    with pytest.raises(BackendError, match="no server can be used") as error:
        learner.backend.generate(requests, SETTINGS)
    assert learner.network.url in str(error.value)
    assert any(part in str(error.value) for part in said.split("|"))
    assert learner.is_lost()

    learner.network.settle()
    learner.network.weather = "fair"
    before = learner.network.num_connections
    with pytest.raises(BackendError, match="no server can be used"):
        learner.backend.generate(requests, SETTINGS)
    learner.network.settle()
    assert learner.network.num_connections == before + 1, "the one of settle alone"

    learner.push(2)
    found = learner.backend.generate(requests, SETTINGS)
    assert [sample.response_ids for sample in found] == [sample.response_ids for sample in expected]
    assert {sample.policy_version for sample in found} == {2}


def test_a_slow_network_costs_time_alone(learner: Learner, requests) -> None:
    expected = learner.backend.generate(requests, SETTINGS)
    learner.network.weather = "slow"
    assert learner.backend.generate(requests, SETTINGS) == expected
    assert not learner.is_lost()


@pytest.mark.parametrize("weather", ["down", "stalled", "garbage"])
def test_a_push_into_a_failing_network_is_an_error_and_the_next_one_mends_it(learner: Learner, requests, weather: Weather) -> None:
    expected = learner.backend.generate(requests, SETTINGS)
    learner.network.weather = weather
    with pytest.raises(BackendError, match="no server can be used"):
        learner.push(2)
    assert learner.is_lost()
    learner.network.weather = "fair"
    learner.push(3)
    found = learner.backend.generate(requests, SETTINGS)
    assert [sample.response_ids for sample in found] == [sample.response_ids for sample in expected]


def test_a_push_that_is_cut_in_its_middle_leaves_a_server_that_the_next_one_mends(learner: Learner, requests) -> None:
    """Cut at any moment: the server may be paused, or between the old weights and the new."""
    expected = learner.backend.generate(requests, SETTINGS)
    for number, delay_s in enumerate((0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2)):
        cut = threading.Thread(target=lambda delay_s=delay_s: (time.sleep(delay_s), setattr(learner.network, "weather", "down")))
        cut.start()
        try:
            learner.push(10 + 2 * number)
        except BackendError:
            assert learner.is_lost()
        cut.join()
        learner.network.weather = "fair"
        learner.push(11 + 2 * number)
        found = learner.backend.generate(requests, SETTINGS)
        assert [sample.response_ids for sample in found] == [sample.response_ids for sample in expected]
