"""A learner and its rollout servers: when the weights of the learner go to them, and in which form.

All weights go with adapters merged into copies, or an adapter goes alone: what is trained is never changed by it. Every rank calls `push` at the same time;
rank 0 sends, and the others wait and learn which servers have the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from coordexp.generation.server_pool import ServerAddress, ServerPool
from coordexp.generation.weight_transfer import PushReport, WeightPusher
from coordexp.models.adapter_files import AdapterBase, save_adapter
from coordexp.models.adapters import EMBEDDING, HEAD
from coordexp.models.merged_view import merged_tensors
from coordexp.models.parts import part_of
from coordexp.training.ranks import gather_objects
from coordexp.types.errors import BackendError, ConfigError, UserError

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
    beyond = next((name for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer) and not _is_reached(name)), None)
    return (
        None
        if beyond is None
        else f"the LoRA lies on {beyond}, and vLLM applies adapters to the language model's layers alone (tuner.freeze_vit, freeze_aligner)"
    )


def _is_reached(name: str) -> bool:
    return part_of(name) == "llm" and name.rpartition(".")[2] not in (EMBEDDING, HEAD)


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
        mode: SyncMode = "full",
        falls_back: bool = True,
        world_size: int = 1,
        say: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Args beside the obvious.

        pusher: on rank 0; None on the others.
        client: whose requests `abort` ends.
        mode: all weights, the adapter, or (`auto`) the adapter where model and servers allow it.
        falls_back: an adapter that the servers cannot take is no error: all weights go instead.
        say: takes a sentence for each server that is lost or back.
        """
        self._model, self._pool, self._pusher, self._client = model, pool, pusher, client
        self._mode: SyncMode = "full" if mode == "auto" and adapter_obstacle(model) is not None else mode
        self._falls_back, self._world_size, self._say = falls_back or mode == "auto", world_size, say
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
            report = self._send_adapter(self._pusher, version) if self._mode != "full" else None
            if report is None:
                report = self._pusher.push(merged_tensors(self._model, dtype=self._pusher.dtype()), version)
        except UserError as error:
            return error
        self._tell(report)
        return report

    def _send_adapter(self, pusher: WeightPusher, version: int) -> PushReport | None:
        """None: the servers cannot take one, and from now on all weights go.

        Raises:
            BackendError: they cannot, and all weights are no alternative; or no server could be reached.
        """
        model = self._model
        assert isinstance(model, PeftModel)
        obstacle = pusher.adapter_obstacle()
        if obstacle is None:
            try:
                return pusher.push_adapter(
                    lambda folder: save_adapter(model, folder, base=AdapterBase(path="")),
                    version,
                    base=lambda: merged_tensors(model, dtype=pusher.dtype(), merges=False),
                )
            except BackendError as error:
                if not any(control.is_healthy() for control in pusher.controls):
                    raise
                obstacle = str(error)
        if not self._falls_back:
            raise BackendError(f"the servers take no adapter ({obstacle})", where=WHERE, fix="set fallback_to_full: true, or start them with --enable-lora")
        self._say(f"{'warning: ' if self._mode == 'adapter' else ''}all weights go to the servers, not the adapter alone: {obstacle}")
        self._mode = "full"
        return None

    def _tell(self, report: PushReport) -> None:
        known = {address.base_url for address in self._known_lost or ()}
        for url, reason in report.skipped.items():
            if url not in known:
                self._say(f"warning: {url} did not get policy {report.version} ({reason}); it is asked nothing until it has the weights")
        for url in report.pushed:
            if url in known:
                self._say(f"{url} is back, with policy {report.version}")
