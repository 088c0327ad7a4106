"""What a vLLM server that somebody else started must be before a run relies on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from coordexp.generation.chat_route import CHAT_PATH, HOW_TO_TOKENS, TOKENS_PATH, Route
from coordexp.generation.constrained_requests import CONSTRAINT_KEY, NO_PROCESSOR, PROBE
from coordexp.generation.http import CONNECT_S, check_status, client_settings, describe_trouble
from coordexp.generation.server_pool import ServerAddress
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.types.errors import BackendError

_START = "start one with 'coordexp rollout-server --model <checkpoint>', set infer.backend.auto_launch: true, or use --backend hf"


def check_server(
    address: ServerAddress, *, token: str | None, facts: ModelFacts, model: str | None, say: Callable[[str], None], constrained: bool = False
) -> Route:
    """Ask the server what it serves.

    Args:
        address: where it should be.
        token: that it asks for.
        facts: of the checkpoint that it should serve.
        model: name that requests will give; None: the server's only model.
        say: told when the weights go by another name than the checkpoint, and when the server takes no exact tokens.
        constrained: requests will have a constraint.

    Returns:
        By which route it can be asked.

    Raises:
        BackendError: nothing answers there, it does not know the model, or it takes no constraint where one is needed.
    """
    with httpx.Client(**client_settings(address, token=token, timeout_s=CONNECT_S)) as client:
        try:
            models, schema = client.get("/v1/models"), client.get("/openapi.json")
            check_status(models, address)
            served: list[dict[str, Any]] = models.json()["data"]
            # a server that does not describe itself is asked the way that all of them know
            takes_tokens = schema.is_success and TOKENS_PATH in schema.json()["paths"]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BackendError(f"no vLLM server: {describe_trouble(error)}", where=address.base_url, fix=_START) from error
        except (ValueError, KeyError, TypeError) as error:
            raise BackendError("what answers there is no vLLM server", where=address.base_url, fix=_START) from error
    names = [str(entry.get("id")) for entry in served]
    if model is not None and model not in names:
        raise BackendError(f"it has no model {model!r} (it has {', '.join(names)})", where=address.base_url, fix="correct infer.backend.model")
    if not takes_tokens:
        what = f"the server has no route {TOKENS_PATH}, which takes exact tokens"
        if constrained:
            raise BackendError(f"{what} and constraints", where=address.base_url, fix=HOW_TO_TOKENS)
        say(f"warning: {address.base_url}: {what}; answers come by {CHAT_PATH} (route: chat), with prompts that it renders and that are compared")
    elif constrained:
        _check_processor(address, token=token, facts=facts)
    root = next((entry.get("root") for entry in served if model is None or entry.get("id") == model), None)
    if root is not None and str(root).rstrip("/") != facts.checkpoint.rstrip("/"):
        say(f"{address.base_url} serves {root}; this run names its checkpoint {facts.checkpoint}")
    return "tokens" if takes_tokens else "chat"


def _check_processor(address: ServerAddress, *, token: str | None, facts: ModelFacts) -> None:
    """A constraint that cannot be read is refused by our processor, and goes unseen where there is none."""
    body = {"token_ids": [facts.stop_ids[0]], "sampling_params": {"max_tokens": 1, "extra_args": PROBE}}
    with httpx.Client(**client_settings(address, token=token, timeout_s=60.0)) as client:
        try:
            answer = client.post(TOKENS_PATH, json=body)
        except httpx.HTTPError as error:
            raise BackendError(f"no vLLM server: {describe_trouble(error)}", where=address.base_url, fix=_START) from error
    if not (answer.is_client_error and CONSTRAINT_KEY in answer.text):
        raise BackendError("the server has no processor for constrained decoding", where=address.base_url, fix=NO_PROCESSOR)
