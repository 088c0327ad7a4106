"""Generation on vLLM servers: exact token ids in, exact token ids out, with the weights that produced them.

The prompt goes as the ids of the training encoding and the picture as the pixels of the training encoding (a lossless PNG of what its patches hold), through
vLLM's route for tokens, `/inference/v1/generate`. The ids that the server generated from come back and must be equal; so must the version of the weights.

Requests go to the servers in contiguous shares. A share whose server fails is split over the others; results come in the order of the requests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import threading
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import numpy as np
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from coordexp.batching.pictures import PatchLayout, encode_png, restore_picture
from coordexp.codec.pieces import decode_pieces
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer
from coordexp.generation.http import check_status, client_settings, describe_trouble
from coordexp.generation.loop_limits import cut_loop, server_repetition
from coordexp.generation.prompt_ids import check_prompt_ids
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.stop_tokens import stop_token_ids
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings
from coordexp.types.sequences import PromptInputs

if TYPE_CHECKING:
    from coordexp.models.load import LoadedModel

T = TypeVar("T")

_ROUTE = "/inference/v1/generate"
_REQUEST_PREFIX = "generate-tokens-"
"""vLLM puts it before the id of a request; aborting asks for the whole."""
_ATTEMPTS = 3


class ServerLostError(Exception):
    """A server is given up for now; internal to the pool's users."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the learner's checkpoint decides about requests."""

    checkpoint: str
    image_token_id: int
    stop_ids: tuple[int, ...]
    layout: PatchLayout

    @classmethod
    def of(cls, loaded: LoadedModel) -> ModelFacts:
        """Of the learner's model."""
        return cls(
            checkpoint=str(loaded.path),
            image_token_id=int(loaded.processor.image_token_id),
            stop_ids=tuple(stop_token_ids(loaded.model, loaded.tokenizer)),
            layout=PatchLayout.of(loaded.processor.image_processor),
        )


class VllmServerBackend:
    """See `GenerationBackend`. `generate` may be called from several threads at once; `abort` and `close` from any thread.

    One thread of its own runs the connections. `generate` waits for the answers of its requests, or for an error; it is unblocked by `abort`.

    Example: `VllmServerBackend(ServerPool([ServerAddress("http://127.0.0.1:8000")]), facts=facts, tokenizer=tokenizer).generate(requests, settings)`
    """

    def __init__(
        self, pool: ServerPool, *, facts: ModelFacts, tokenizer: AnyTokenizer, token: str | None = None, answer_timeout_s: float | None = None
    ) -> None:
        """Args beside the obvious.

        token: that the servers ask for.
        answer_timeout_s: waiting for one answer; None: no limit.
        """
        self.pool = pool
        self.text_tokenizer = TextTokenizer.of(tokenizer)
        self._facts, self._token, self._timeout_s = facts, token, answer_timeout_s
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._running: dict[str, ServerAddress] = {}
        """Ids of requests under way."""
        self._work: set[Future[Any]] = set()
        """What callers wait for."""
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-client", daemon=True)
        self._thread.start()

    @property
    def info(self) -> BackendInfo:
        return BackendInfo(
            type="vllm", checkpoint=self._facts.checkpoint, attn_requested=None, attn_used=None, dtype="server", device="server", determinism="best_effort"
        )

    @property
    def num_in_flight(self) -> int:
        """Requests under way."""
        return len(self._running)

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        """See `GenerationBackend.generate`. No request: no server is asked.

        Raises:
            BackendError: no server is left, one generated from another prompt, the request cannot be served, or `abort` was called.
        """
        if with_trace:
            raise BackendError("rollouts on servers come without token probabilities", fix="use rollout_backend: hf where they are needed")
        if settings.num_beams > 1:
            raise BackendError("a vLLM server has no beam search", fix="set decode_mode: greedy, or rollout_backend: hf")
        if not requests:
            return []
        bodies = [self._body(request, settings) for request in requests]
        answers = self._wait(self._answer_all(bodies))
        return [self._sample(request, answer, settings) for request, answer in zip(requests, answers, strict=True)]

    def ask_one(self, address: ServerAddress, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationSample]:
        """`generate` by one server, which may be waiting for weights.

        Raises:
            BackendError: it does not answer.
        """
        bodies = {number: self._body(request, settings) for number, request in enumerate(requests)}
        answers = self._wait(self._answer_share(address, bodies))
        if len(answers) < len(requests):
            raise BackendError(f"the server fails: {self.pool.state(address).last_error}", where=address.base_url, fix="read its log and start it again")
        return [self._sample(request, answers[number], settings) for number, request in enumerate(requests)]

    def abort(self) -> None:
        """End what is under way: `generate` returns with an error, in whatever thread it waits."""
        if not self._is_closed:
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._is_closed:
            work.close()
            raise BackendError("the client of the rollout servers is closed")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._work.add(future)
        try:
            return future.result()
        except BaseException as error:
            future.cancel()
            if isinstance(error, CancelledError):
                raise BackendError("the rollouts were called off") from error
            raise
        finally:
            self._work.discard(future)

    async def _answer_all(self, bodies: Sequence[Mapping[str, Any]]) -> list[_Answer]:
        """In the order of the requests; what a lost server has left open goes to the others."""
        answers: dict[int, _Answer] = {}
        open_ones = list(range(len(bodies)))
        while open_ones:
            servers = self.pool.usable()
            if not servers:
                raise self.pool.describe_lost()
            share = math.ceil(len(open_ones) / len(servers))
            shares = [open_ones[start : start + share] for start in range(0, len(open_ones), share)]
            jobs = [self._answer_share(server, {index: bodies[index] for index in indices}) for server, indices in zip(servers, shares, strict=False)]
            for found in await _all_or_first_error(jobs):
                answers.update(found)
            open_ones = [index for index in open_ones if index not in answers]
        return [answers[index] for index in range(len(bodies))]

    async def _answer_share(self, server: ServerAddress, bodies: Mapping[int, Mapping[str, Any]]) -> dict[int, _Answer]:
        """What the server answered before it was lost, if it was."""
        done: dict[int, _Answer] = {}

        async def ask(index: int, body: Mapping[str, Any]) -> None:
            done[index] = await self._ask(server, body)

        try:
            await _all_or_first_error([ask(index, body) for index, body in bodies.items()])
        except ServerLostError as error:
            self.pool.mark_lost(server, str(error))
        return done

    async def _ask(self, server: ServerAddress, body: Mapping[str, Any]) -> _Answer:
        state = self.pool.state(server)
        name = uuid.uuid4().hex
        asked = {**body, "request_id": name, **({} if state.adapter is None else {"model": state.adapter})}
        self._running[name] = server
        try:
            retrying = AsyncRetrying(
                stop=stop_after_attempt(_ATTEMPTS),
                wait=wait_random_exponential(multiplier=0.2, max=2.0),
                retry=retry_if_exception_type((httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.HTTPStatusError)),
                reraise=True,
            )
            response = await retrying(self._post, server, asked)
        except httpx.HTTPError as error:
            raise ServerLostError(describe_trouble(error)) from error
        finally:
            self._running.pop(name, None)
        return _Answer.read(response, server=server, version=state.version)

    async def _post(self, server: ServerAddress, body: Mapping[str, Any]) -> httpx.Response:
        client = self._clients.get(server.base_url)
        if client is None:
            client = self._clients[server.base_url] = httpx.AsyncClient(**client_settings(server, token=self._token, timeout_s=self._timeout_s))
        response = await client.post(_ROUTE, json=body)
        check_status(response, server)
        return response

    async def _cancel_all(self) -> None:
        running = dict(self._running)
        for future in list(self._work):
            future.cancel()
        for server in set(running.values()):
            names = [_REQUEST_PREFIX + name for name, owner in running.items() if owner == server]
            # one that is gone has no requests any more
            with contextlib.suppress(httpx.HTTPError):
                await self._clients[server.base_url].post("/inference/v1/abort_requests", json={"request_ids": names}, timeout=2.0)

    async def _shut_down(self) -> None:
        await self._cancel_all()
        for client in self._clients.values():
            await client.aclose()

    def _body(self, request: GenerationRequest, settings: GenerationSettings) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": settings.top_k,
            "repetition_penalty": settings.repetition_penalty,
            "stop_token_ids": list(self._facts.stop_ids),
            "skip_special_tokens": False,
            "detokenize": False,
        }
        if settings.temperature > 0:
            sampling["seed"] = request.seed
        if settings.repeat is not None:
            sampling["repetition_detection"] = server_repetition(settings.repeat)
        pictures = [_as_url(encode_png(restore_picture(image, self._facts.layout))) for image in request.prompt.images]
        return {
            "token_ids": _unexpanded(request.prompt, self._facts.image_token_id),
            "content_parts": [{"type": "image_url", "url": url} for url in pictures],
            "sampling_params": sampling,
            "return_token_ids": True,
        }

    def _sample(self, request: GenerationRequest, answer: _Answer, settings: GenerationSettings) -> GenerationSample:
        expected = request.prompt.token_ids.tolist()
        check_prompt_ids(answer.prompt_ids, expected, name=f"{request.id} by {answer.server}")
        if answer.finish_reason == "abort":
            raise BackendError("the server called a rollout off", where=answer.server)
        ids = answer.token_ids
        has_stopped = bool(ids) and ids[-1] in self._facts.stop_ids
        ids = ids[:-1] if has_stopped else ids
        sample = GenerationSample(
            prompt_ids=tuple(expected),
            response_ids=ids,
            text=decode_pieces(ids, tokenizer=self.text_tokenizer).text,
            finish_reason="stop" if has_stopped else "length",
            seed=request.seed,
            policy_version=answer.version,
        )
        return sample if settings.repeat is None else cut_loop(sample, settings.repeat, tokenizer=self.text_tokenizer)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said to one request."""

    server: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """With the stop token."""
    finish_reason: str
    version: int

    @classmethod
    def read(cls, response: httpx.Response, *, server: ServerAddress, version: int | None) -> _Answer:
        """Raises ServerLostError when it is no answer, or comes from other weights than those that were pushed."""
        try:
            document = response.json()
            (choice,) = document["choices"]
            answer = cls(
                server=server.base_url,
                prompt_ids=tuple(map(int, document["prompt_token_ids"])),
                token_ids=tuple(map(int, choice["token_ids"])),
                finish_reason=str(choice["finish_reason"]),
                version=0 if version is None else version,
            )
            spans = {str(span["version"]) for span in choice.get("weight_versions") or ()}
        except (ValueError, KeyError, TypeError) as error:
            raise ServerLostError(f"its answer cannot be read ({type(error).__name__}: {error})") from error
        if version is not None and spans - {str(version)}:
            raise ServerLostError(f"it answers with the weights {', '.join(sorted(spans))}, not {version}: it was restarted, or another learner uses it")
        return answer


async def _all_or_first_error(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; on an error the rest is cancelled, and waited for."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _unexpanded(prompt: PromptInputs, image_token_id: int) -> list[int]:
    """The ids with one placeholder for each image, which the server expands by itself."""
    ids = prompt.token_ids
    is_repeated = np.zeros(len(ids), dtype=bool)
    is_repeated[1:] = (ids[1:] == image_token_id) & (ids[:-1] == image_token_id)
    return ids[~is_repeated].tolist()


def _as_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
