"""Generation on vLLM servers: exact token ids in, exact token ids out, with the weights that produced them.

The prompt goes as the ids of the training encoding and the picture as the pixels of the training encoding (a lossless PNG of what its patches hold), through
vLLM's route for tokens, `/inference/v1/generate`, or to a server without it as in `coordexp.generation.chat_route`. The ids that the server generated from come
back and must be equal; so must the version of the weights.

Requests go to the servers in contiguous shares. A share whose server fails is split over the others; results come in the order of the requests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import math
import threading
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from coordexp.batching.pictures import encode_png
from coordexp.codec.text_tokenizer import AnyTokenizer, TextTokenizer
from coordexp.generation.chat_route import CHAT_PATH, TOKENS_PATH, Route, as_token_answer, chat_body
from coordexp.generation.http import check_status, client_settings, describe_trouble
from coordexp.generation.protocol import BackendInfo, GenerationRequest, probabilities_of
from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.vllm_requests import (
    DEFAULT_TOP,
    ModelFacts,
    TopTokens,
    answer_shelf,
    check_settings,
    pictures_of,
    read_sample,
    sampling_parameters,
    unexpanded_ids,
)
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings

T = TypeVar("T")

_PATHS: dict[Route, str] = {"tokens": TOKENS_PATH, "chat": CHAT_PATH}
_REQUEST_PREFIX = "generate-tokens-"
"""vLLM puts it before the id of a request; aborting asks for the whole."""
_ATTEMPTS = 3
_CLIENTS_PER_SERVER = 8


class ServerLostError(Exception):
    """A server is given up for now; internal to the pool's users."""


class VllmServerBackend:
    """See `GenerationBackend`. `generate` may be called from several threads at once; `abort` and `close` from any thread.

    One thread of its own runs the connections. `generate` waits for the answers of its requests, or for an error; it is unblocked by `abort`.

    Example: `VllmServerBackend(ServerPool([ServerAddress("http://127.0.0.1:8000")]), facts=facts, tokenizer=tokenizer).generate(requests, settings)`
    """

    def __init__(
        self,
        pool: ServerPool,
        *,
        facts: ModelFacts,
        tokenizer: AnyTokenizer,
        token: str | None = None,
        answer_timeout_s: float | None = None,
        model: str | None = None,
        top_tokens: int = DEFAULT_TOP,
        concurrency: int | None = None,
        route: Route = "tokens",
    ) -> None:
        """Args beside the obvious.

        token: that the servers ask for.
        answer_timeout_s: waiting for one answer; None: no limit.
        model: name of the model in requests; None: the one that the server has.
        top_tokens: most probable tokens that come with each token when a trace is asked for.
        concurrency: requests under way on one server, of all callers together; None: no limit.
        route: by which all servers are asked.
        """
        self.pool = pool
        self.text_tokenizer = TextTokenizer.of(tokenizer)
        self._facts, self._token, self._timeout_s = facts, token, answer_timeout_s
        self._model, self._top_tokens = model, top_tokens
        self._route: Route = route
        self._shelf = answer_shelf(self.text_tokenizer, facts)
        self._gates = {} if concurrency is None else {server.base_url: asyncio.Semaphore(concurrency) for server in pool.addresses}
        self._clients: dict[tuple[str, int], httpx.AsyncClient] = {}
        """By server and turn: a client looks at all its connections whenever one of them gets or ends a request."""
        self._turns = itertools.cycle(range(_CLIENTS_PER_SERVER))
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
            type="vllm",
            checkpoint=self._facts.checkpoint,
            attn_requested=None,
            attn_used=None,
            dtype="server",
            device="server",
            determinism="best_effort",
            route=self._route,
            probabilities=probabilities_of(self._top_tokens),
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
        check_settings(settings)
        if not requests:
            return []
        bodies = [self._body(request, settings, with_trace=with_trace) for request in requests]
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
        model = state.adapter or self._model
        asked = {**body, "request_id": name, **({} if model is None else {"model": model})}
        self._running[name] = server
        try:
            retrying = AsyncRetrying(
                stop=stop_after_attempt(_ATTEMPTS),
                wait=wait_random_exponential(multiplier=0.2, max=2.0),
                retry=retry_if_exception_type((httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.HTTPStatusError)),
                reraise=True,
            )
            async with self._gates.get(server.base_url, contextlib.nullcontext()):
                response = await retrying(self._post, server, asked)
        except httpx.HTTPError as error:
            raise ServerLostError(describe_trouble(error)) from error
        finally:
            self._running.pop(name, None)
        return _Answer.read(response, server=server, version=state.version, route=self._route)

    async def _post(self, server: ServerAddress, body: Mapping[str, Any]) -> httpx.Response:
        response = await self._client(server).post(_PATHS[self._route], json=body)
        check_status(response, server)
        return response

    def _client(self, server: ServerAddress) -> httpx.AsyncClient:
        """The next one in turn."""
        key = (server.base_url, next(self._turns))
        if key not in self._clients:
            self._clients[key] = httpx.AsyncClient(**client_settings(server, token=self._token, timeout_s=self._timeout_s))
        return self._clients[key]

    async def _cancel_all(self) -> None:
        running = dict(self._running)
        for future in list(self._work):
            future.cancel()
        # through chat a request ends with its connection
        for server in set(running.values()) if self._route == "tokens" else ():
            names = [_REQUEST_PREFIX + name for name, owner in running.items() if owner == server]
            # one that is gone has no requests any more
            with contextlib.suppress(httpx.HTTPError):
                await self._client(server).post("/inference/v1/abort_requests", json={"request_ids": names}, timeout=2.0)

    async def _shut_down(self) -> None:
        await self._cancel_all()
        for client in self._clients.values():
            await client.aclose()

    def _body(self, request: GenerationRequest, settings: GenerationSettings, *, with_trace: bool = False) -> dict[str, Any]:
        pictures = [_as_url(encode_png(picture)) for picture in pictures_of(request.prompt, facts=self._facts)]
        sampling = sampling_parameters(request, settings, facts=self._facts, top_tokens=self._top_tokens if with_trace else None)
        if self._route == "chat":
            return chat_body(request.prompt, pictures=pictures, sampling=sampling)
        return {
            "token_ids": unexpanded_ids(request.prompt, facts=self._facts),
            "content_parts": [{"type": "image_url", "url": url} for url in pictures],
            "sampling_params": sampling,
            "return_token_ids": True,
        }

    def _sample(self, request: GenerationRequest, answer: _Answer, settings: GenerationSettings) -> GenerationSample:
        if answer.finish_reason == "abort":
            raise BackendError("the server called a rollout off", where=answer.server)
        return read_sample(
            request,
            settings,
            prompt_ids=answer.prompt_ids,
            token_ids=answer.token_ids,
            top_tokens=answer.top_tokens,
            version=answer.version,
            engine=answer.server,
            facts=self._facts,
            tokenizer=self.text_tokenizer,
            shelf=self._shelf,
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said to one request."""

    server: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """With the stop token."""
    finish_reason: str
    version: int
    top_tokens: tuple[TopTokens, ...] | None
    """One for each token, when probabilities were asked for."""

    @classmethod
    def read(cls, response: httpx.Response, *, server: ServerAddress, version: int | None, route: Route) -> _Answer:
        """Raises ServerLostError when it is no answer, or comes from other weights than those that were pushed."""
        try:
            document = response.json() if route == "tokens" else as_token_answer(response.json())
            (choice,) = document["choices"]
            answer = cls(
                server=server.base_url,
                prompt_ids=tuple(map(int, document["prompt_token_ids"])),
                token_ids=tuple(map(int, choice["token_ids"])),
                finish_reason=str(choice["finish_reason"]),
                version=0 if version is None else version,
                top_tokens=_read_top_tokens(choice.get("logprobs")),
            )
            spans = {str(span["version"]) for span in choice.get("weight_versions") or ()}
        except (ValueError, KeyError, TypeError) as error:
            raise ServerLostError(f"its answer cannot be read ({type(error).__name__}: {error})") from error
        if version is not None and spans - {str(version)}:
            raise ServerLostError(f"it answers with the weights {', '.join(sorted(spans))}, not {version}: it was restarted, or another learner uses it")
        return answer


def _read_top_tokens(logprobs: Mapping[str, Any] | None) -> tuple[TopTokens, ...] | None:
    if logprobs is None:
        return None
    return tuple(
        TopTokens(float(entry["logprob"]), tuple((int(other["token_id"]), float(other["logprob"])) for other in entry["top_logprobs"]))
        for entry in logprobs["content"]
    )


async def _all_or_first_error(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; on an error the rest is cancelled, and waited for."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _as_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
