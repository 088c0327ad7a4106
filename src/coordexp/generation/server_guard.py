"""Asks for a token on every route of a vLLM server. Its own `--api-key` leaves the control routes open, and those change the weights.

Runs inside the server; standard library only. The token comes in the environment variable COORDEXP_REQUIRED_TOKEN, which no process list shows.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_OPEN = ("/health", "/ping")


class RequireToken:
    """An ASGI middleware: `Authorization: Bearer <token>`, or 401."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['COORDEXP_REQUIRED_TOKEN']}".encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]) -> None:
        given = dict(scope.get("headers") or ()).get(b"authorization", b"")
        if scope["type"] not in ("http", "websocket") or scope["path"] in _OPEN or hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4401})
            return
        body = json.dumps({"error": "a token is needed"}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})
