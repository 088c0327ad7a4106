"""What every generation backend promises; rollouts and inference see nothing else. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings
from coordexp.types.sequences import PromptInputs

Determinism: TypeAlias = Literal["strict", "best_effort"]


class BackendLostError(BackendError):
    """Nothing more can be generated, whatever is asked: the servers are gone, or answer with other prompts or weights than they should."""


NUM_BATCHES = 8
"""Batches that are best given to `HfBackend` at once: places of rows that have ended are refilled, and run empty at the end only."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue.

    Example: `GenerationRequest(id="val:12", prompt=encoder.encode(prompt, image), seed=request_seed(42, "val:12"))`
    """

    id: str
    """Names the request in errors."""
    prompt: PromptInputs
    seed: int
    """Decides the sampled tokens of this request, whatever it shares a batch with; greedy decoding ignores it."""


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What generates; written to every summary.

    Example: `BackendInfo(type="hf", checkpoint="ckpt/tiny", attn_requested="sdpa", attn_used="sdpa", dtype="float32", device="cpu", determinism="strict")`
    """

    type: str
    checkpoint: str
    attn_requested: str | None
    attn_used: str | None
    dtype: str
    device: str
    determinism: Determinism
    """`strict`: the same requests in the same batches give the same tokens and probabilities on the same machine."""
    route: str | None = None
    """How a server is asked: `tokens` (exact ids) or `chat` (messages, which it renders); None: there is no server."""
    probabilities: str = "all"
    """That a trace has: of all tokens, or of the most probable ones at each place, as in `top 20`. Confidences of one kind are not those of another."""


def probabilities_of(top_tokens: int | None) -> str:
    """`BackendInfo.probabilities` of a backend that sees so many tokens at each place; None: all."""
    return "all" if top_tokens is None else f"top {top_tokens}"


class GenerationBackend(Protocol):
    """Continues prompts. One caller at a time."""

    @property
    def info(self) -> BackendInfo: ...

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        """One sample for each request, in the order of the requests.

        Args:
            requests: any number; the backend batches them.
            settings: `settings.seed` is not used here, each request has its own.
            with_trace: fill `GenerationSample.trace`, if the backend has probabilities.

        Raises:
            BackendLostError: the backend is not there, or not usable for anything.
            BackendError: these requests failed, for instance for lack of memory.
        """
        ...

    def close(self) -> None:
        """Release the model, the process or the connection; calling it twice is harmless."""
        ...
