"""A real vLLM server on this machine's CPU, the tiny checkpoint in float32: answers and weights are compared with the transformers backend in this process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.images import load_image
from coordexp.data.odd_pictures import write_odd_pictures
from coordexp.data.synthetic import SceneSettings, render_scene, scale_scene
from coordexp.generation.hf import HfBackend
from coordexp.generation.pixel_check import check_pixels
from coordexp.generation.prompt_batch import collate_prompts
from coordexp.generation.protocol import GenerationRequest
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.generation.weight_transfer import TransferName, WeightPusher
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

SETTINGS = GenerationSettings(max_new_tokens=128)
NUM_IMAGES = 50


@dataclass(frozen=True)
class Learner:
    """A model in this process, and the clients of the server."""

    loaded: LoadedModel
    hf: HfBackend
    pool: ServerPool
    backend: VllmServerBackend

    def push(self, version: int, *, transfer: TransferName = "auto", clears_caches: bool = True) -> None:
        pusher = WeightPusher(self.pool, transfer=transfer)
        try:
            pusher.push(self.loaded.model.named_parameters(), version, clears_caches=clears_caches)
        finally:
            pusher.close()

    def answers(self, requests: list[GenerationRequest], settings: GenerationSettings = SETTINGS) -> tuple[list[GenerationSample], list[GenerationSample]]:
        """(transformers, vLLM)"""
        return self.hf.generate(requests, settings), self.backend.generate(requests, settings)

    def train(self, requests: list[GenerationRequest], *, steps: int) -> None:
        """Optimizer steps that move every part of the model, the vision tower too."""
        model = self.loaded.model
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
        batch = collate_prompts([request.prompt for request in requests], model=model, pad_id=0)
        for _ in range(steps):
            logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **batch.image_inputs).logits
            logits[:, -1].logsumexp(-1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.fixture
def learner(vllm_server) -> Iterator[Learner]:
    """With the weights of the checkpoint, on both sides."""
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    hf, pool = HfBackend(loaded, batch_size=25), ServerPool([vllm_server.options.address])
    backend = VllmServerBackend(pool, facts=ModelFacts.of(loaded), tokenizer=hf.text_tokenizer)
    learner = Learner(loaded, hf, pool, backend)
    learner.push(0)
    yield learner
    backend.close()


@pytest.fixture(scope="module")
def requests() -> list[GenerationRequest]:
    encoder, prompt = PromptEncoder(load_model(tiny_checkpoint()).processor), build_prompt(PromptSpec())
    settings = SceneSettings(name="server", kind="shapes", seed=5, num_scenes=NUM_IMAGES, max_objects=3)
    scenes = [scale_scene(render_scene(settings, index), 96) for index in range(NUM_IMAGES)]
    return [GenerationRequest(str(index), encoder.encode(prompt, Image.fromarray(scene.image)), seed=index) for index, scene in enumerate(scenes)]


def ids(samples: list[GenerationSample]) -> list[tuple[tuple[int, ...], tuple[int, ...], str]]:
    return [(sample.prompt_ids, sample.response_ids, sample.finish_reason) for sample in samples]


def test_greedy_answers_are_those_of_transformers_token_for_token(learner, requests) -> None:
    expected, found = learner.answers(requests)

    assert ids(found) == ids(expected)
    assert len({sample.response_ids for sample in found}) > 10


@pytest.mark.parametrize("transfer", ["shared_memory", "gloo"])
def test_after_training_steps_and_a_push_they_are_again(learner, requests, transfer: TransferName) -> None:
    before = learner.backend.generate(requests, SETTINGS)
    learner.train(requests[:8], steps=3)
    learner.push(3, transfer=transfer)

    expected, found = learner.answers(requests)

    assert ids(found) == ids(expected)
    assert {sample.policy_version for sample in found} == {3}
    assert sum(a != b for a, b in zip(ids(before), ids(found), strict=True)) > 5


def test_with_caches_left_alone_they_are_not(learner, requests) -> None:
    learner.backend.generate(requests, SETTINGS)  # fills the caches
    learner.train(requests[:8], steps=3)
    learner.push(3, clears_caches=False)

    expected, stale = learner.answers(requests)
    assert ids(stale) != ids(expected)

    learner.push(4)
    assert ids(learner.backend.generate(requests, SETTINGS)) == ids(expected)


def test_a_server_that_knows_nothing_of_the_connection_gets_a_new_one(learner, requests) -> None:
    """As after a restart that nobody has noticed."""
    pusher = WeightPusher(learner.pool, transfer="gloo")
    pusher.push(learner.loaded.model.named_parameters(), 1)
    pusher.controls[0].post("/shutdown_weight_transfer_engine")
    learner.train(requests[:8], steps=2)

    report = pusher.push(learner.loaded.model.named_parameters(), 2)
    pusher.close()

    assert report.skipped == {}
    expected, found = learner.answers(requests[:12])
    assert ids(found) == ids(expected)


def test_a_push_leaves_the_weights_of_the_learner_as_they_are(learner) -> None:
    before = {name: tensor.clone() for name, tensor in learner.loaded.model.state_dict().items()}
    learner.push(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.loaded.model.state_dict().items())


def test_the_pixels_of_eight_odd_pictures_are_the_same(learner, tmp_path: Path) -> None:
    encoder, prompt = PromptEncoder(learner.loaded.processor), build_prompt(PromptSpec())
    prompts = [encoder.encode(prompt, load_image(path)) for path in write_odd_pictures(tmp_path)]
    (control,) = WeightPusher(learner.pool).controls

    assert len(prompts) == 8
    assert check_pixels(control, learner.backend, prompts) < 1e-6


def test_other_pixels_are_an_error(learner, requests) -> None:
    (image,) = requests[0].prompt.images
    (control,) = WeightPusher(learner.pool).controls
    shifted = replace(requests[0].prompt, images=(replace(image, pixel_values=image.pixel_values[::-1].copy()),))
    learner.backend.ask_one(control.address, [requests[0]], SETTINGS)

    class OtherPictures(VllmServerBackend):
        def ask_one(self, address, asked, settings):
            return learner.backend.ask_one(address, [replace(asked[0], prompt=shifted)], settings)

    other = OtherPictures(learner.pool, facts=ModelFacts.of(learner.loaded), tokenizer=learner.hf.text_tokenizer)
    with pytest.raises(BackendError, match="other pixels than the training"):
        check_pixels(control, other, [requests[0].prompt])
    other.close()


def test_a_seed_decides_what_is_sampled(learner, requests) -> None:
    settings = replace(SETTINGS, temperature=1.0)
    first = learner.backend.generate(requests[:8], settings)
    reordered = learner.backend.generate(requests[7::-1], settings)[::-1]
    others = learner.backend.generate([replace(request, seed=request.seed + 1000) for request in requests[:8]], settings)

    assert ids(first) == ids(reordered) != ids(others)


def test_a_repetition_penalty_is_that_of_transformers(learner, requests) -> None:
    expected, found = learner.answers(requests[:12], replace(SETTINGS, repetition_penalty=1.2))
    assert ids(found) == ids(expected)


def test_the_loop_guard_ends_an_answer_at_the_same_token(learner, requests) -> None:
    learner.train(requests[:8], steps=12)  # what it writes now goes on without an end
    learner.push(12)
    limits = RepeatLimits(min_new_tokens=16, ngram_size=8, ngram_repeats=3, max_consecutive_token_repeats=12)

    expected, found = learner.answers(requests[:12], replace(SETTINGS, max_new_tokens=192, repeat=limits))

    assert ids(found) == ids(expected)
    assert "repeat" in {sample.finish_reason for sample in found}


def test_a_server_with_the_weights_of_another_learner_is_not_believed(learner, requests) -> None:
    other = ServerPool(learner.pool.addresses)
    pusher = WeightPusher(other)
    pusher.push(learner.loaded.model.named_parameters(), 99)
    pusher.close()

    with pytest.raises(BackendError, match="answers with the weights 99, not 0: it was restarted, or another learner uses it"):
        learner.backend.generate(requests[:4], SETTINGS)

    with pytest.raises(BackendError, match="no server can be used"):  # it is asked nothing more
        learner.backend.generate(requests[:1], SETTINGS)
    learner.push(5)
    assert len(learner.backend.generate(requests[:4], SETTINGS)) == 4


def test_the_share_of_a_dead_server_goes_to_the_others_in_order(learner, requests, closed_port: int) -> None:
    dead, alive = ServerAddress(f"http://127.0.0.1:{closed_port}"), learner.pool.addresses[0]
    pool = ServerPool([dead, alive])
    backend = VllmServerBackend(pool, facts=ModelFacts.of(learner.loaded), tokenizer=learner.hf.text_tokenizer)

    found = backend.generate(requests[:9], SETTINGS)
    backend.close()

    assert ids(found) == ids(learner.hf.generate(requests[:9], SETTINGS))
    assert pool.usable() == [alive]
    assert pool.state(dead).last_error == "nothing answers there"


def test_a_push_to_a_dead_and_a_living_server_reaches_the_living_one(learner, closed_port: int) -> None:
    dead, alive = ServerAddress(f"http://127.0.0.1:{closed_port}"), learner.pool.addresses[0]
    pool = ServerPool([dead, alive], needs_sync=True)
    pusher = WeightPusher(pool)
    report = pusher.push(learner.loaded.model.named_parameters(), 8)
    pusher.close()

    assert report.pushed == (alive.base_url,)
    assert list(report.skipped) == [dead.base_url]
    assert pool.usable() == [alive]


def test_abort_ends_what_another_thread_waits_for(learner, requests) -> None:
    errors: list[Exception] = []

    def wait() -> None:
        try:
            learner.backend.generate(requests, replace(SETTINGS, max_new_tokens=1500, temperature=2.0))
        except BackendError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while learner.backend.num_in_flight == 0:
        time.sleep(0.01)
    learner.backend.abort()
    thread.join(timeout=30)

    assert [error.what for error in errors] == ["the rollouts were called off"]
    assert len(learner.backend.generate(requests[:2], SETTINGS)) == 2  # the client goes on


def test_nothing_is_asked_when_there_is_nothing_to_ask(closed_port: int, learner) -> None:
    pool = ServerPool([ServerAddress(f"http://127.0.0.1:{closed_port}")])
    backend = VllmServerBackend(pool, facts=ModelFacts.of(learner.loaded), tokenizer=learner.hf.text_tokenizer)
    assert backend.generate([], SETTINGS) == []
    backend.close()


def test_the_client_of_the_serving_example_prints_the_boxes_of_a_picture(learner, vllm_server, tmp_path: Path) -> None:
    """By the ordinary chat route, with what a server makes of the picture by itself."""
    settings = SceneSettings(name="served", kind="shapes", seed=5, num_scenes=1, max_objects=3)
    scene = scale_scene(render_scene(settings, 0, num_objects=2), 96)
    Image.fromarray(scene.image).save(tmp_path / "a.png")
    example = Path(__file__).parents[2] / "examples" / "serve_with_vllm.py"
    command = [sys.executable, str(example), str(tmp_path / "a.png"), "--url", vllm_server.options.address.base_url, "--model", "policy"]
    done = subprocess.run([*command, "--max-tokens", "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[1] for row in rows] == [item.desc for item in scene.objects]
    boxes = np.array([[float(value) for value in row[2].strip("[]").split(",")] for row in rows])
    np.testing.assert_allclose(boxes, np.array([item.points for item in scene.objects]) * 95 / 999, atol=3)
