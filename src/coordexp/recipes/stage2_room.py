"""What surrounds the rollouts of synchronous Stage-2: the weights go to the engine, and with `rollout_matching.offload` the learner goes out of its way."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer

from coordexp.config.rollout import OffloadSection
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.recipes.stage1_parts import Stage1Parts
from coordexp.recipes.stage2_async import RolloutEngine
from coordexp.training.engine_sync import LearnerEngine
from coordexp.training.offload import RolloutRoom, parameters_of, state_of
from coordexp.training.weight_sync import LearnerServers


def build_room(section: OffloadSection, parts: Stage1Parts, engine: RolloutEngine, *, optimizer: Callable[[], Optimizer | None]) -> RolloutRoom:
    """Of a run. `optimizer` is asked at each round: there is none before the first step of a training."""
    sync = engine.servers.sync_before if isinstance(engine.servers, LearnerServers | LearnerEngine) else None
    if not section.enabled:
        return RolloutRoom(sync=sync)
    model, backend = parts.tuned.trained, engine.backend
    return RolloutRoom(
        sync=sync,
        sleeper=backend if isinstance(backend, VllmEngineBackend) and backend.can_sleep else None,
        weights=(lambda: parameters_of(model)) if section.offload_model else None,
        state=(lambda: state_of(optimizer(), device=next(model.parameters()).device)) if section.offload_optimizer else None,
    )
