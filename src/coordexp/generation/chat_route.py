"""Generation through `/v1/chat/completions`, for a vLLM server that was not started for exact tokens (`--enable-scale-out`) and is what there is.

The server renders the prompt from messages by its own chat template. The ids that it generated from come back and are compared like those of the other route,
so that a template, tokenizer or image setting that is not the checkpoint's ends the run. Token ids and probabilities come back in the same precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from coordexp.generation.protocol import BackendLostError
from coordexp.types.errors import BackendError
from coordexp.types.sequences import PromptInputs

Route: TypeAlias = Literal["tokens", "chat"]
"""`tokens` takes exact ids; `chat` takes messages, which the server renders."""

CHAT_PATH = "/v1/chat/completions"
TOKENS_PATH = "/inference/v1/generate"
HOW_TO_TOKENS = "start it with --enable-scale-out (vLLM 0.32 or newer), or by 'coordexp rollout-server'"

_TOKEN_NAME = "token_id:"
"""How `return_tokens_as_token_ids` writes a token."""


def chat_body(prompt: PromptInputs, *, pictures: Sequence[str], sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The request for a prompt, in the same order of picture and text as the training encoding.

    Args:
        prompt: with the texts that the template was applied to.
        pictures: data URLs.
        sampling: see `coordexp.generation.vllm_requests.sampling_parameters`.

    Raises:
        BackendError: the request has a constraint, which this route cannot pass on.
    """
    if "extra_args" in sampling:
        raise BackendError(f"{CHAT_PATH} takes no constraint", fix=HOW_TO_TOKENS)
    content = [*({"type": "image_url", "image_url": {"url": url}} for url in pictures), {"type": "text", "text": prompt.user}]
    system = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []
    # it makes the text that the message must hold
    settings = {name: value for name, value in sampling.items() if name not in ("logprobs", "detokenize")}
    if "logprobs" in sampling:
        settings |= {"logprobs": True, "top_logprobs": sampling["logprobs"], "return_tokens_as_token_ids": True}
    return {"messages": [*system, {"role": "user", "content": content}], "return_token_ids": True, **settings}


def as_token_answer(document: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of this route in the form of the other one.

    Raises:
        BackendLostError: the server gives no token ids.
        KeyError, TypeError, ValueError: it is no answer.
    """
    (choice,) = document["choices"]
    if document.get("prompt_token_ids") is None or choice.get("token_ids") is None:
        raise BackendLostError(f"the server returns no token ids by {CHAT_PATH}", fix="use vLLM 0.11 or newer, which takes return_token_ids")
    found = choice.get("logprobs")
    return {
        "prompt_token_ids": document["prompt_token_ids"],
        "choices": [
            {
                "token_ids": choice["token_ids"],
                "finish_reason": choice["finish_reason"],
                "logprobs": None if found is None else {"content": [_with_ids(entry) for entry in found["content"]]},
            }
        ],
    }


def _with_ids(entry: Mapping[str, Any]) -> dict[str, Any]:
    tops = [{"token_id": _id_of(other["token"]), "logprob": other["logprob"]} for other in entry["top_logprobs"]]
    return {"token_id": _id_of(entry["token"]), "logprob": entry["logprob"], "top_logprobs": tops}


def _id_of(name: str) -> int:
    if not name.startswith(_TOKEN_NAME):
        raise BackendLostError(f"the server names tokens by their text ({name!r}), not by their ids", fix="use vLLM 0.11 or newer")
    return int(name.removeprefix(_TOKEN_NAME))
