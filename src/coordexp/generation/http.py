"""What both clients of a vLLM server share: tokens in the header, no proxy for a server on this machine, and errors as sentences."""

from __future__ import annotations

from typing import Any

import httpx

from coordexp.generation.server_pool import ServerAddress
from coordexp.types.errors import BackendError

TOKEN_VARIABLE = "COORDEXP_SERVER_TOKEN"
"""Environment variable with the token of the servers; never in a configuration file, which is copied into every run folder."""

HEALTH_S = 5.0
CONNECT_S = 10.0

_SHOWN = 400
"""Characters of an answer that are shown in an error."""


def client_settings(address: ServerAddress, *, token: str | None, timeout_s: float | None) -> dict[str, Any]:
    """Of `httpx.Client` and `httpx.AsyncClient`. `timeout_s`: waiting for one answer; None: no limit."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {
        "base_url": address.base_url,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_S),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
        # a proxy of the environment must not carry what stays on this machine
        "trust_env": not address.is_loopback,
    }


def is_healthy(address: ServerAddress) -> bool:
    """Whether a server answers there; it asks for no token on this route."""
    try:
        with httpx.Client(**client_settings(address, token=None, timeout_s=HEALTH_S)) as client:
            return client.get("/health").status_code == 200
    except httpx.HTTPError:
        return False


def check_status(response: httpx.Response, address: ServerAddress) -> None:
    """Raises BackendError for a refusal (4xx), httpx.HTTPStatusError for trouble of the server (5xx)."""
    if response.status_code >= 500:
        response.raise_for_status()
    if response.status_code == 401:
        raise BackendError("the server asks for a token", where=address.base_url, fix=f"put it into the environment variable {TOKEN_VARIABLE}")
    if response.status_code == 404:
        fix = "start it with 'coordexp rollout-server', which turns the control routes on; 'coordexp doctor engine' shows what the engine can do"
        raise BackendError(f"the server has no route {response.request.url.path}", where=address.base_url, fix=fix)
    if response.is_error:
        raise BackendError(f"the server refuses the request ({response.status_code}: {response.text[:_SHOWN]})", where=address.base_url)


def describe_trouble(error: Exception) -> str:
    """Why a server did not answer, in a few words."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answers with {error.response.status_code}: {error.response.text[:_SHOWN]}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return "nothing answers there"
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, httpx.DecodingError):
        return "its answer cannot be read"
    return f"the connection broke ({type(error).__name__})"
