"""The client of rollout servers against a small HTTP server in this process: what it does with every kind of answer. The real one is in tests/e2e."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.chat_route import Route, as_token_answer
from coordexp.generation.pixel_check import check_pixels
from coordexp.generation.protocol import BackendLostError, GenerationRequest
from coordexp.generation.server_control import Control
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.generation.vllm_server import VllmServerBackend
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSettings

SETTINGS = GenerationSettings(max_new_tokens=8)
Answer = tuple[int, bytes]


class Server:
    """Answers each request by what `answer` makes of its body, and keeps the bodies."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                status, content = answer(body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has given up
                    self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.address = ServerAddress(f"http://127.0.0.1:{self._http.server_port}")

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model(tiny_checkpoint())


@pytest.fixture(scope="module")
def requests(loaded: LoadedModel) -> list[GenerationRequest]:
    encoder, prompt = PromptEncoder(loaded.processor), build_prompt(PromptSpec())
    pictures = [np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8) for number in range(7)]
    return [GenerationRequest(str(number), encoder.encode(prompt, Image.fromarray(picture)), seed=number) for number, picture in enumerate(pictures)]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[dict[str, Any]], Answer]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@contextlib.contextmanager
def client(loaded: LoadedModel, *servers: Server, timeout_s: float | None = None, route: Route = "tokens") -> Iterator[VllmServerBackend]:
    pool = ServerPool([server.address for server in servers])
    tokenizer = TextTokenizer.of(loaded.tokenizer)  # pyright: ignore[reportArgumentType]
    backend = VllmServerBackend(pool, facts=ModelFacts.of(loaded), tokenizer=tokenizer, answer_timeout_s=timeout_s, route=route)
    yield backend
    backend.close()


def expanded(body: dict[str, Any], loaded: LoadedModel, count: int = 6) -> list[int]:
    """The prompt with all placeholders of a 32 x 48 picture."""
    at = body["token_ids"].index(loaded.processor.image_token_id)
    return [*body["token_ids"][:at], *[loaded.processor.image_token_id] * count, *body["token_ids"][at + 1 :]]


def right(loaded: LoadedModel, **changes: Any) -> Callable[[dict[str, Any]], Answer]:
    def answer(body: dict[str, Any]) -> Answer:
        choice = {"token_ids": [5, len(body["content_parts"][0]["url"]) % 97, ModelFacts.of(loaded).stop_ids[0]], "finish_reason": "stop"} | changes
        return 200, json.dumps({"prompt_token_ids": expanded(body, loaded), "choices": [choice]}).encode()

    return answer


def test_shares_are_contiguous_and_results_in_the_order_of_the_requests(loaded, requests, serve) -> None:
    one, two = serve(right(loaded)), serve(right(loaded))
    with client(loaded, one, two) as backend:
        found = backend.generate(requests, SETTINGS)
        alone = [backend.generate([request], SETTINGS)[0] for request in requests]

    assert [sample.response_ids for sample in found] == [sample.response_ids for sample in alone]
    assert [len(server.bodies) - extra for server, extra in ((one, 7), (two, 0))] == [4, 3]  # ceil(7 / 2), and one by one all to the first
    assert all(sample.finish_reason == "stop" and len(sample.response_ids) == 2 for sample in found)


def test_the_body_holds_the_exact_ids_with_one_placeholder_and_how_to_sample(loaded, requests, serve) -> None:
    server = serve(right(loaded))
    with client(loaded, server) as backend:
        backend.generate(requests[:1], GenerationSettings(max_new_tokens=8, temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1))

    (body,) = server.bodies
    assert expanded(body, loaded) == requests[0].prompt.token_ids.tolist()
    assert body["sampling_params"] == {
        "max_tokens": 8,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 1.1,
        "stop_token_ids": list(ModelFacts.of(loaded).stop_ids),
        "skip_special_tokens": False,
        "detokenize": False,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda body: (200, b"<html>"), "its answer cannot be read (JSONDecodeError"),
        (lambda body: (200, b'{"choices": []}'), "its answer cannot be read (ValueError"),
        (lambda body: (503, b"engine is dead"), "it answers with 503: engine is dead"),
    ],
    ids=["no json", "no choice", "503"],
)
def test_a_server_that_talks_nonsense_is_lost_and_the_others_do_its_share(loaded, requests, serve, answer, said: str) -> None:
    bad, good = serve(answer), serve(right(loaded))
    with client(loaded, bad, good) as backend:
        found = backend.generate(requests, SETTINGS)
        assert backend.pool.usable() == [good.address]
        assert said in backend.pool.state(bad.address).last_error
    assert len(found) == len(requests)
    assert len(good.bodies) >= len(requests)


def test_when_no_server_is_left_the_error_names_each(loaded, requests, serve) -> None:
    bad = serve(lambda body: (500, b"out of memory"))
    with client(loaded, bad) as backend, pytest.raises(BackendError) as caught:
        backend.generate(requests[:2], SETTINGS)
    assert f"{bad.address.base_url} (it answers with 500: out of memory)" in str(caught.value)
    assert "start the servers again" in str(caught.value)


def test_trouble_that_passes_is_tried_again(loaded, requests, serve) -> None:
    failures = iter([True, False])
    server = serve(lambda body: (503, b"busy") if next(failures, False) else right(loaded)(body))
    with client(loaded, server) as backend:
        assert len(backend.generate(requests[:1], SETTINGS)) == 1
        assert backend.pool.usable() == [server.address]
    assert len(server.bodies) == 2


def test_a_server_that_hangs_is_lost_after_the_time_for_one_answer(loaded, requests, serve) -> None:
    is_over = threading.Event()

    def hang(body: dict[str, Any]) -> Answer:
        is_over.wait(30)
        return 200, b"{}"

    hanging = serve(hang)
    with client(loaded, hanging, timeout_s=0.5) as backend, pytest.raises(BackendError, match="it did not answer in time"):
        backend.generate(requests[:2], SETTINGS)
    is_over.set()


def test_another_prompt_is_an_error_with_both_sequences(loaded, requests, serve) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        ids = expanded(body, loaded, count=5)
        return 200, json.dumps({"prompt_token_ids": ids, "choices": [{"token_ids": [5], "finish_reason": "length"}]}).encode()

    with client(loaded, serve(answer)) as backend, pytest.raises(BackendError, match="the backend's prompt differs from the training encoding at token"):
        backend.generate(requests[:1], SETTINGS)


@pytest.mark.parametrize(("status", "said"), [(401, "COORDEXP_SERVER_TOKEN"), (404, "has no route /inference/v1/generate"), (400, "refuses the request")])
def test_a_refusal_is_said_at_once(loaded, requests, serve, status: int, said: str) -> None:
    server = serve(lambda body: (status, b"no"))
    with client(loaded, server) as backend, pytest.raises(BackendError, match=said):
        backend.generate(requests[:1], SETTINGS)
    assert len(server.bodies) == 1


def test_answers_of_other_weights_than_those_that_were_pushed_do_not_count(loaded, requests, serve) -> None:
    old = serve(right(loaded, weight_versions=[{"version": "default", "start": 0, "end": 3}]))
    mixed = serve(right(loaded, weight_versions=[{"version": "4", "start": 0, "end": 1}, {"version": "5", "start": 1, "end": 3}]))
    new = serve(right(loaded, weight_versions=[{"version": "5", "start": 0, "end": 3}]))
    with client(loaded, old, mixed, new) as backend:
        for address in backend.pool.addresses:
            backend.pool.mark_synced(address, version=5)
        found = backend.generate(requests, SETTINGS)
        assert {sample.policy_version for sample in found} == {5}
        assert backend.pool.usable() == [new.address]
        assert "answers with the weights default, not 5" in backend.pool.state(old.address).last_error


def test_requests_ask_for_the_adapter_that_was_pushed(loaded, requests, serve) -> None:
    server = serve(right(loaded))
    with client(loaded, server) as backend:
        backend.generate(requests[:1], SETTINGS)
        backend.pool.mark_synced(server.address, version=2, adapter="policy-abc")
        backend.generate(requests[:1], SETTINGS)
    assert [body.get("model") for body in server.bodies] == [None, "policy-abc"]


def test_abort_and_close_end_a_wait_in_another_thread(loaded, requests, serve) -> None:
    is_over = threading.Event()

    def hang(body: dict[str, Any]) -> Answer:
        is_over.wait(30)
        return 200, b"{}"

    errors: list[BackendError] = []
    server = serve(hang)
    with client(loaded, server) as backend:

        def wait() -> None:
            with pytest.raises(BackendError) as caught:
                backend.generate(requests, SETTINGS)
            errors.append(caught.value)

        thread = threading.Thread(target=wait)
        thread.start()
        while not server.bodies:
            time.sleep(0.01)
        backend.abort()
        thread.join(timeout=10)
        assert not thread.is_alive()
    is_over.set()
    assert [error.what for error in errors] == ["the rollouts were called off"]


def test_a_server_without_our_extension_is_one_sentence(loaded, serve) -> None:
    server = serve(lambda body: (500, b"no method coordexp_describe"))
    with client(loaded, server) as backend, pytest.raises(BackendError, match=r"does not tell what it sees .*; start it with 'coordexp rollout-server'"):
        check_pixels(Control(server.address, token=None, timeout_s=5), backend, [])


def test_what_a_server_cannot_do_is_said_before_it_is_asked(loaded, requests, serve) -> None:
    server = serve(right(loaded))
    with client(loaded, server) as backend, pytest.raises(BackendError, match="no beam search"):
        backend.generate(requests[:1], GenerationSettings(max_new_tokens=8, num_beams=2))
    assert server.bodies == []


def chat_answer(loaded: LoadedModel, request: GenerationRequest, **changes: Any) -> Callable[[dict[str, Any]], Answer]:
    """Of `/v1/chat/completions`: one token and the end, with the three most probable tokens."""
    stop = ModelFacts.of(loaded).stop_ids[0]
    tops = [{"token": f"token_id:{token}", "logprob": -0.5 * token, "bytes": None} for token in (5, 6, 7)]
    content = [{**tops[0], "top_logprobs": tops}, {"token": f"token_id:{stop}", "logprob": 0.0, "bytes": None, "top_logprobs": []}]
    choice = {"token_ids": [5, stop], "finish_reason": "stop", "logprobs": {"content": content}, "message": {"content": "x"}}
    document = {"prompt_token_ids": request.prompt.token_ids.tolist(), "choices": [choice]} | changes
    return lambda body: (200, json.dumps(document).encode())


def test_through_chat_a_prompt_goes_as_messages_and_ids_and_probabilities_come_back(loaded, requests, serve) -> None:
    server = serve(chat_answer(loaded, requests[0]))
    with client(loaded, server, route="chat") as backend:
        (sample,) = backend.generate(requests[:1], SETTINGS, with_trace=True)
        with pytest.raises(BackendError, match="takes no constraint; start it with --enable-scale-out"):
            backend.generate(requests[:1], replace(SETTINGS, constraint=ConstraintSpec()))
    assert (sample.response_ids, sample.finish_reason) == ((5,), "stop")
    assert sample.trace is not None
    assert [entry.logprob for entry in sample.trace] == [-2.5]
    (body,) = server.bodies
    prompt = build_prompt(PromptSpec())
    assert body["messages"][0] == {"role": "system", "content": [{"type": "text", "text": prompt.system}]}
    assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
    assert body["messages"][1]["content"][1]["text"] == prompt.user
    assert (body["top_logprobs"], body["return_token_ids"], body["skip_special_tokens"], body["max_tokens"]) == (20, True, False, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"prompt_token_ids": [1, 2, 3]}, "prompt differs from the training encoding at token 0.*chat template", id="another-template"),
        pytest.param({"prompt_token_ids": None}, "returns no token ids by /v1/chat/completions; use vLLM 0.11", id="no-prompt-ids"),
        pytest.param({"choices": [{"finish_reason": "stop", "message": {"content": "x"}}]}, "returns no token ids", id="another-server"),
        pytest.param({"choices": []}, "no server can be used: .*its answer cannot be read", id="no-answer"),
    ],
)
def test_what_a_chat_server_cannot_say_ends_the_run(loaded, requests, serve, changes: dict[str, Any], said: str) -> None:
    server = serve(chat_answer(loaded, requests[0], **changes))
    with client(loaded, server, route="chat") as backend, pytest.raises(BackendLostError, match=said):
        backend.generate(requests[:1], SETTINGS, with_trace=True)


def test_tokens_that_are_named_by_their_text_are_no_ids() -> None:
    named = {"token": "x", "logprob": 0.0, "top_logprobs": []}
    with pytest.raises(BackendLostError, match="names tokens by their text"):
        as_token_answer({"prompt_token_ids": [1], "choices": [{"token_ids": [5], "finish_reason": "stop", "logprobs": {"content": [named]}}]})
