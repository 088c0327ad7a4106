"""How a constraint travels to vLLM and what is checked when the answer is back. Importable in the engine's environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from coordexp.generation.constrained import AutomatonShelf
from coordexp.generation.repeat import loop_end
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, RepeatLimits

PROCESSOR = "coordexp.generation.constrained_vllm:ConstrainedProcessor"
"""For `--logits-processors`."""
CONSTRAINT_KEY = "coordexp_constraint"
"""In `extra_args` of a request."""
PROBE: dict[str, Any] = {CONSTRAINT_KEY: {"probe": 1}}
"""What only our processor refuses."""
NO_PROCESSOR = f"start it with --logits-processors {PROCESSOR} (coordexp in its PYTHONPATH), or by 'coordexp rollout-server --constrained'"
_WATCHED = 512
"""Last tokens before the limit in which it may have taken choices away: no answer needs more to be ended, once it is begun."""


@dataclass(frozen=True, slots=True)
class ConstraintRequest:
    """What one request asks for."""

    spec: ConstraintSpec
    repeat: RepeatLimits | None
    """The loop guard, which ends a document in place of cutting it."""

    @classmethod
    def of(cls, settings: GenerationSettings) -> ConstraintRequest | None:
        """None: no constraint."""
        return None if settings.constraint is None else cls(settings.constraint, settings.repeat)

    def as_extra_args(self) -> dict[str, Any]:
        """`read` reads it."""
        return {CONSTRAINT_KEY: {"spec": self.spec.as_json(), "repeat": None if self.repeat is None else asdict(self.repeat)}}

    @classmethod
    def read(cls, extra_args: Mapping[str, Any] | None) -> ConstraintRequest | None:
        """None: there is no constraint. Raises ValueError, with `CONSTRAINT_KEY` in it, when it cannot be read."""
        document = (extra_args or {}).get(CONSTRAINT_KEY)
        if document is None:
            return None
        try:
            repeat = document["repeat"]
            return cls(ConstraintSpec.from_json(document["spec"]), None if repeat is None else RepeatLimits(**repeat))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{CONSTRAINT_KEY} cannot be read ({type(error).__name__}: {error})") from error


def check_answer(
    sample: GenerationSample, settings: GenerationSettings, *, stop_ids: Sequence[int], has_stopped: bool, engine: str, shelf: AutomatonShelf
) -> GenerationSample:
    """The sample with why it ended, as transformers would have said it.

    Args:
        sample: read from an answer.
        settings: with a constraint.
        stop_ids: any of them ends an answer.
        has_stopped: whether one did.
        engine: names it in errors.
        shelf: of the engine's vocabulary.

    Raises:
        BackendError: the answer is no document of the constraint: the engine has no processor.
    """
    assert settings.constraint is not None
    with shelf.lock:
        row = shelf.start(settings.constraint, max_new_tokens=settings.max_new_tokens)
        allowed = np.empty(shelf.vocab_size, dtype=bool)
        for place, token in enumerate((*sample.response_ids, *stop_ids[: int(has_stopped)])):
            if settings.max_new_tokens - place <= _WATCHED and not row.is_short:
                row.fill(allowed)
            if not row.push(token):
                break
        if not row.is_done:
            raise BackendError(f"the answer to {settings.constraint} is no such document: {sample.text[-80:]!r}", where=engine, fix=NO_PROCESSOR)
    is_loop = settings.repeat is not None and loop_end(sample.response_ids, settings.repeat, piece_of=shelf.tokenizer.piece) is not None
    return replace(sample, finish_reason="repeat" if is_loop else "length" if row.is_short else "stop")
