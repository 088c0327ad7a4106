"""A learner and its rollout servers: when the weights of the learner go to them, and in which form.

All weights go with adapters merged into copies: what is trained is never changed by it. Every rank calls `push` at the same time; rank 0 sends, and the
others wait and learn which servers have the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import torch
from peft import PeftModel
from torch import nn

from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.weight_transfer import PushReport, WeightPusher
from coordexp.models.merged_view import merged_tensors
from coordexp.training.ranks import gather_objects
from coordexp.types.errors import ConfigError, UserError

SyncMode: TypeAlias = Literal["full", "adapter", "auto"]

WHERE = "rollout_matching.vllm.sync.mode"
_PROBE_EVERY_S = 2.0
"""A lost server is asked for its health at most this often."""


class Client(Protocol):
    """The client of the servers, as far as it can be interrupted."""

    def abort(self) -> None: ...


def adapter_obstacle(model: nn.Module) -> str | None:
    """Why what is trained cannot be sent as an adapter; None: it is plain LoRA and nothing else."""
    if not isinstance(model, PeftModel):
        return "all weights are trained"
    config = model.peft_config[model.active_adapters[0]]
    if str(getattr(config.peft_type, "value", config.peft_type)) != "LORA":
        return "coordinate rows are trained"
    if getattr(config, "use_dora", False):
        return "the adapter is DoRA"
    if getattr(config, "trainable_token_indices", None) is not None:
        return "coordinate rows are trained beside the LoRA"
    if getattr(config, "modules_to_save", None):
        return "whole modules are trained beside the LoRA"
    return None


def check_sync_mode(model: nn.Module, mode: SyncMode) -> None:
    """Refuse to send an adapter where that would leave out what is trained.

    Raises:
        ConfigError: the mode is adapter, and more than plain LoRA is trained.
    """
    obstacle = adapter_obstacle(model)
    if mode == "adapter" and obstacle is not None:
        raise ConfigError(f"is adapter, and {obstacle}", where=WHERE, fix="set it to full, or to auto, which sends an adapter where that is enough")


class LearnerServers:
    """The rollout servers of a training (`coordexp.training.async_rollouts.PolicyServers`). Blocking; used by the training's thread, `abort` by any.

    Example: `LearnerServers(model, pool, pusher, client=backend).push(3)`
    """

    def __init__(
        self,
        model: nn.Module,
        pool: ServerPool,
        pusher: WeightPusher | None,
        *,
        client: Client,
        world_size: int = 1,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Args beside the obvious.

        pusher: on rank 0; None on the others.
        client: whose requests `abort` ends.
        say: takes a sentence for each server that is lost or back.
        """
        self._model, self._pool, self._pusher, self._client = model, pool, pusher, client
        self._world_size, self._say = world_size, say
        self._known_lost: frozenset[ServerAddress] | None = None
        """Without the weights since the last push; None: there was none."""
        self._probed_at = -_PROBE_EVERY_S
        self.synced_step: int | None = None
        """For `sync_before`."""
        self.last: PushReport | None = None

    @property
    def needs_sync(self) -> bool:
        """A server was lost since the last push, or one that was lost is back: it is asked nothing until weights were pushed to it."""
        lost = self._lost()
        if self._known_lost is None or lost - self._known_lost:
            return True
        if not lost or self._pusher is None or time.monotonic() - self._probed_at < _PROBE_EVERY_S:
            return False
        self._probed_at = time.monotonic()
        return any(control.is_healthy() for control in self._pusher.controls if control.address in lost)

    def push(self, version: int) -> None:
        """Send the weights of this moment to every server that can be reached, as version `version`.

        Raises:
            UserError: on every rank, when no server could be reached, or one refuses.
        """
        outcome = self._send(version) if self._pusher is not None else None
        report, states = gather_objects((outcome, self._pool.snapshot()), world_size=self._world_size)[0]
        self._pool.adopt(states)
        self._known_lost = self._lost()
        if isinstance(report, UserError):
            raise report
        assert isinstance(report, PushReport)
        self.last = report

    def sync_before(self, step: int) -> float | None:
        """Before rollouts for optimizer step `step`, in synchronous training: push unless the servers have the weights of this step already.

        Returns:
            Seconds of the push; None: there was none.

        Raises:
            UserError: see `push`.
        """
        # every rank decides alike: what one alone has seen, the others must hear
        if self.synced_step == step and not any(gather_objects(self.needs_sync, world_size=self._world_size)):
            return None
        start = time.perf_counter()
        self.push(step)
        self.synced_step = step
        return time.perf_counter() - start

    def abort(self) -> None:
        """End the generation under way with a `BackendError`. From any thread."""
        self._client.abort()

    def close(self) -> None:
        """Leave the servers; they go on."""
        if self._pusher is not None:
            self._pusher.close()

    def _lost(self) -> frozenset[ServerAddress]:
        return frozenset(self._pool.addresses) - frozenset(self._pool.usable())

    def _send(self, version: int) -> PushReport | UserError:
        """An error is handed to the other ranks, which wait."""
        assert self._pusher is not None
        try:
            report = self._pusher.push(merged_tensors(self._model, dtype=self._wire_dtype()), version)
        except UserError as error:
            return error
        self._tell(report)
        return report

    def _tell(self, report: PushReport) -> None:
        known = {address.base_url for address in self._known_lost or ()}
        for url, reason in report.skipped.items():
            if url not in known:
                self._say(f"warning: {url} did not get policy {report.version} ({reason}); it is asked nothing until it has the weights")
        for url in report.pushed:
            if url in known:
                self._say(f"{url} is back, with policy {report.version}")

    def _wire_dtype(self) -> torch.dtype | None:
        """The servers round wider numbers anyway."""
        return self._pusher.dtype() if self._pusher is not None else None
