"""The control routes of one vLLM server, and what it says of itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import httpx
import torch

from coordexp.generation.http import check_status, client_settings, is_healthy
from coordexp.generation.server_pool import ServerAddress
from coordexp.types.errors import BackendError


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself."""

    dtype: torch.dtype
    backend: str | None
    """Of its weight transfer: coordexp or nccl."""
    num_workers: int
    model: str
    max_model_len: int
    has_lora: bool


class Control:
    """The control routes of one server. Blocking; one caller at a time."""

    def __init__(self, address: ServerAddress, *, token: str | None, timeout_s: float) -> None:
        self.address = address
        settings = client_settings(address, token=token, timeout_s=timeout_s)
        # a connection for each call: the server closes one behind an error without saying so, and the next call would break on it
        settings["limits"] = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(**settings)

    def post(self, route: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """Raises httpx.HTTPError when it is in trouble, BackendError when it refuses."""
        response = self._client.post(route, json=body, params=query or None)
        check_status(response, self.address)
        try:
            return response.json() if response.content else {}
        except ValueError as error:
            raise httpx.DecodingError("no JSON", request=response.request) from error

    def post_text(self, route: str, body: Any) -> str:
        """For routes that answer in words."""
        response = self._client.post(route, json=body)
        check_status(response, self.address)
        return response.text

    def clear_caches(self) -> None:
        """All that would remember other weights; the encoder cache holds image embeddings."""
        for route in ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"):
            self.post(route)

    def take_over(self) -> None:
        """Undo what a learner that was killed in the middle of a push has left: a pause, and weights half of the old and half of the new.

        The next push replaces them. On a server that is well nothing changes.
        """
        # without an update that is open it refuses to finish one
        with contextlib.suppress(httpx.HTTPStatusError, BackendError):
            self.post("/finish_weight_update", {"weight_version": "cut off"})
        self.post("/resume")

    def call_all(self, method: str, *args: str) -> list[Any]:
        """What the method of the worker extension returns in each worker."""
        return self.post("/collective_rpc", {"method": method, "args": list(args)})["results"]

    def call(self, method: str, *args: str) -> Any:
        """In the first worker."""
        return self.call_all(method, *args)[0]

    def is_healthy(self) -> bool:
        return is_healthy(self.address)

    def version(self) -> str:
        """Of the weights that the server has, as vLLM names it; `default` until some are pushed."""
        response = self._client.get("/weight_info")
        check_status(response, self.address)
        return str(response.json()["weight_version"])

    def describe(self) -> ServerFacts:
        found = self.call("coordexp_describe")
        return ServerFacts(
            dtype=getattr(torch, found["dtype"]),
            backend=found["backend"],
            num_workers=int(found["workers"]),
            model=str(found["model"]),
            max_model_len=int(found["max_model_len"]),
            has_lora=bool(found["lora"]),
        )

    def close(self) -> None:
        self._client.close()
