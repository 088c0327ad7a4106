"""Generation that a bad sample cannot stop: when a batch fails, its samples are tried one by one."""

from __future__ import annotations

from collections.abc import Sequence

from coordexp.generation.protocol import BackendLostError, GenerationBackend, GenerationRequest
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings


def generate_each(backend: GenerationBackend, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationSample | BackendError]:
    """One answer or failure for each request, in order; with probabilities where the backend has them.

    Raises:
        BackendLostError: nothing can be generated any more, whatever is asked.
    """
    if not requests:
        return []
    try:
        return list(backend.generate(requests, settings, with_trace=True))
    except BackendLostError:
        raise
    except BackendError as error:
        if len(requests) == 1:
            return [error]
    return [answer for request in requests for answer in generate_each(backend, [request], settings)]
