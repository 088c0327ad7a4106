"""A learner and the vLLM engine in its own process: when the weights of the learner go to it."""

from __future__ import annotations

import time

from torch import nn

from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.models.merged_view import merged_tensors


class LearnerEngine:
    """The engine of one learner process. Adapters are merged into copies, tensor by tensor: what is trained is never changed by it.

    Example: `LearnerEngine(model, backend).sync_before(3)`
    """

    def __init__(self, model: nn.Module, backend: VllmEngineBackend) -> None:
        self._model, self._backend = model, backend
        self.synced_step: int | None = None

    def sync_before(self, step: int) -> float | None:
        """Before rollouts for optimizer step `step`: give the engine the weights unless it has those of this step.

        Returns:
            Seconds that it took; None: it had them.

        Raises:
            BackendError: the engine does not take them.
        """
        if self.synced_step == step:
            return None
        start = time.perf_counter()
        self._backend.load(merged_tensors(self._model, dtype=self._backend.dtype), version=step)
        self.synced_step = step
        return time.perf_counter() - start
