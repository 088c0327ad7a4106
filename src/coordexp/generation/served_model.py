"""What a vLLM server that somebody else started must be before a run relies on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from coordexp.generation.constrained_requests import CONSTRAINT_KEY, NO_PROCESSOR, PROBE
from coordexp.generation.http import CONNECT_S, check_status, client_settings, describe_trouble
from coordexp.generation.server_pool import ServerAddress
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.types.errors import BackendError

_START = "start one with 'coordexp rollout-server --model <checkpoint>', set infer.backend.auto_launch: true, or use --backend hf"
_ROUTE = "/inference/v1/generate"


def check_server(
    address: ServerAddress, *, token: str | None, facts: ModelFacts, model: str | None, say: Callable[[str], None], constrained: bool = False
) -> None:
    """Ask the server what it serves.

    Args:
        address: where it should be.
        token: that it asks for.
        facts: of the checkpoint that it should serve.
        model: name that requests will give; None: the server's only model.
        say: told when the weights go by another name than the checkpoint.
        constrained: requests will have a constraint.

    Raises:
        BackendError: nothing answers there, it does not know the model, it takes no tokens, or no constraint where one is needed.
    """
    with httpx.Client(**client_settings(address, token=token, timeout_s=CONNECT_S)) as client:
        try:
            models, schema = client.get("/v1/models"), client.get("/openapi.json")
            check_status(models, address)
            served: list[dict[str, Any]] = models.json()["data"]
            has_route = _ROUTE in schema.json()["paths"]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BackendError(f"no vLLM server: {describe_trouble(error)}", where=address.base_url, fix=_START) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BackendError("what answers there is no vLLM server", where=address.base_url, fix=_START) from error
    names = [str(entry.get("id")) for entry in served]
    if model is not None and model not in names:
        raise BackendError(f"it has no model {model!r} (it has {', '.join(names)})", where=address.base_url, fix="correct infer.backend.model")
    if not has_route:
        fix = "start it with --enable-scale-out (vLLM 0.32 or newer), or by 'coordexp rollout-server'"
        raise BackendError(f"the server has no route {_ROUTE}, which takes exact tokens", where=address.base_url, fix=fix)
    if constrained:
        _check_processor(address, token=token, facts=facts)
    root = next((entry.get("root") for entry in served if model is None or entry.get("id") == model), None)
    if root is not None and str(root).rstrip("/") != facts.checkpoint.rstrip("/"):
        say(f"{address.base_url} serves {root}; this run names its checkpoint {facts.checkpoint}")


def _check_processor(address: ServerAddress, *, token: str | None, facts: ModelFacts) -> None:
    """A constraint that cannot be read is refused by our processor, and goes unseen where there is none."""
    body = {"token_ids": [facts.stop_ids[0]], "sampling_params": {"max_tokens": 1, "extra_args": PROBE}}
    with httpx.Client(**client_settings(address, token=token, timeout_s=60.0)) as client:
        try:
            answer = client.post(_ROUTE, json=body)
        except httpx.HTTPError as error:
            raise BackendError(f"no vLLM server: {describe_trouble(error)}", where=address.base_url, fix=_START) from error
    if not (answer.is_client_error and CONSTRAINT_KEY in answer.text):
        raise BackendError("the server has no processor for constrained decoding", where=address.base_url, fix=NO_PROCESSOR)
