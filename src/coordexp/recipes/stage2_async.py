"""Asynchronous Stage-2: the parts that stand beside the synchronous ones. `stage2` composes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coordexp.config.train import TrainConfig
from coordexp.generation.protocol import GenerationBackend
from coordexp.recipes.stage1_parts import Stage1Parts
from coordexp.training import run_folder
from coordexp.training.async_loader import AsyncLoader, AsyncProgress, read_progress
from coordexp.training.async_rollouts import AsyncRollouts, AsyncSettings, PolicyServers
from coordexp.training.async_rounds import AsyncRounds
from coordexp.training.channels import ChannelSchedule
from coordexp.training.engine_sync import LearnerEngine
from coordexp.training.offload import RolloutRoom
from coordexp.training.rollout_rounds import RolloutRounds
from coordexp.training.weight_sync import LearnerServers


@dataclass(frozen=True, slots=True)
class RolloutEngine:
    """What makes rollouts."""

    backend: GenerationBackend
    servers: PolicyServers | LearnerEngine | None = None
    """Where the weights go that it generates with; None: it generates with the learner's own."""

    def close(self) -> None:
        """Release what is connected; the servers go on."""
        self.backend.close()
        if isinstance(self.servers, LearnerServers):
            self.servers.close()


def is_async(config: TrainConfig) -> bool:
    """Whether rollouts are made beside the training."""
    return config.stage2_ab is not None and config.stage2_ab.channel_b.mode == "async"


def async_settings(config: TrainConfig) -> AsyncSettings:
    """Of the section `stage2_ab.channel_b`."""
    assert config.stage2_ab is not None
    channel = config.stage2_ab.channel_b
    section = channel.async_
    return AsyncSettings(
        queue_limit=section.queue_limit,
        prefetch_target_packs=section.prefetch_target_packs,
        version_window=section.version_window,
        sync_every_steps=section.sync_every_steps,
        wait_for_b=channel.wait_for_b,
        wait_timeout_s=section.wait_timeout_s,
        max_skipped_b=channel.max_skipped_b,
        on_starvation=channel.on_starvation,
    )


def async_progress(parts: Stage1Parts, *, channels: ChannelSchedule) -> AsyncProgress:
    """Where the run stands when it begins or goes on."""
    step = run_folder.read_step(parts.resume) if parts.resume is not None else 0
    return read_progress(parts.resume, step=step, channels=channels)


def evaluate_current_policy(evaluate: Callable[[], Mapping[str, float]], loader: object, *, room: RolloutRoom, step: int) -> Mapping[str, float]:
    """What `evaluate` finds while rollouts are made with the weights of this moment, those before optimizer step `step`."""
    if isinstance(loader, AsyncLoader):
        with loader.current_policy():
            return evaluate()
    with room(step):
        return evaluate()


def build_async_rollouts(
    config: TrainConfig,
    parts: Stage1Parts,
    rounds: RolloutRounds,
    servers: PolicyServers,
    *,
    channels: ChannelSchedule,
    say: Callable[[str], None],
    rank: int,
    world_size: int,
) -> AsyncRollouts:
    """Actor, queue, clock and gates of a rank."""
    packs_per_step, first = parts.shape.packs_per_step, async_progress(parts, channels=channels).num_rounds
    return AsyncRollouts(
        AsyncRounds(rounds, channels=channels, packs_per_step=packs_per_step, has_single_rounds=not config.training.packing, first=first),
        servers,
        settings=async_settings(config),
        channels=channels,
        packs_per_step=packs_per_step,
        num_steps=parts.num_steps,
        first_round=first,
        rank=rank,
        world_size=world_size,
        say=say,
    )
