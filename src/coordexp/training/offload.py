"""Makes room on the learner's device for rollouts: its weights and optimizer state wait in main memory, and come back to the last bit before it learns.

What moves are storages, not tensors: a parameter stays the object that the optimizer knows, tied weights stay one, and views of one storage stay that.
On a CPU, where nothing is gained, they move to other memory all the same: a run with offload does there what it does on a GPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from coordexp.types.errors import BackendError, first_line


class Sleeper(Protocol):
    """An engine on the learner's device that gives its memory back while it has nothing to do."""

    def sleep(self) -> None: ...

    def wake(self, part: Literal["weights", "kv_cache"]) -> None: ...


@dataclass(slots=True)
class RolloutTimes:
    """Around the rollouts of a step, in seconds; None: nothing was to be done."""

    sync_s: float | None = None
    """Handing over the weights."""
    offload_s: float | None = None
    """Moving the learner away and back, and waking and resting the engine; complete when the context has ended."""


class RolloutRoom:
    """What surrounds the rollouts of a step: the weights go where rollouts are made, and the learner goes out of the way.

    The order keeps the peak low: optimizer state away, engine weights awake, weights over, learner's weights away, engine cache awake; and back in reverse.

    Example:
        with RolloutRoom(sync=engine.sync_before, weights=lambda: model.parameters())(3):
            rollouts = backend.generate(requests, settings)
    """

    def __init__(
        self,
        *,
        sync: Callable[[int], float | None] | None = None,
        sleeper: Sleeper | None = None,
        weights: Callable[[], Iterable[Tensor]] | None = None,
        state: Callable[[], Iterable[Tensor]] | None = None,
    ) -> None:
        """Args beside the obvious.

        sync: brings weights to where rollouts are made, before a step, and says how long that took; None: rollouts are made by the learner's own.
        weights: what moves once they were handed over; None: they stay.
        state: what moves before that; None: it stays.
        """
        self._sync, self._sleeper, self._weights, self._state = sync, sleeper, weights, state

    @contextlib.contextmanager
    def __call__(self, step: int) -> Iterator[RolloutTimes]:
        """While rollouts for optimizer step `step` are made.

        Raises:
            BackendError: the engine does not take the weights, or does not wake; or the device has no room for what comes back.
        """
        times, start = RolloutTimes(), time.perf_counter()
        moves = any(part is not None for part in (self._sleeper, self._weights, self._state))
        with contextlib.ExitStack() as back:
            if self._state is not None:
                back.enter_context(in_main_memory(self._state()))
            if self._sleeper is not None:
                self._sleeper.wake("weights")
            times.sync_s = None if self._sync is None else self._sync(step)
            if self._weights is not None:
                back.enter_context(in_main_memory(self._weights()))
            if self._sleeper is not None:
                back.push(_resting(self._sleeper))
                self._sleeper.wake("kv_cache")
            spent = time.perf_counter() - start - (times.sync_s or 0.0)
            yield times
            start = time.perf_counter()
        if moves:
            times.offload_s = spent + time.perf_counter() - start


def _resting(sleeper: Sleeper) -> Callable[..., None]:
    """Sends it to sleep; where rollouts failed, their error is the one that is told."""

    def rest(kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.nullcontext() if kind is None else contextlib.suppress(BackendError):
            sleeper.sleep()

    return rest


def parameters_of(model: nn.Module) -> list[Tensor]:
    """All weights, trained or not, each once. There are no gradients between two steps."""
    assert all(parameter.grad is None for parameter in model.parameters()), "rollouts are made between steps, when there are no gradients"
    return list(model.parameters())


def state_of(optimizer: torch.optim.Optimizer | None, *, device: torch.device) -> list[Tensor]:
    """What an optimizer remembers on `device`; nothing before its first step. Pages of paged optimizers are left to their own management."""
    if optimizer is None:
        return []
    values: list[Any] = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in values if isinstance(value, Tensor) and value.device == device and not getattr(value, "is_paged", False)]


@contextlib.contextmanager
def in_main_memory(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Hold `tensors` in main memory, in pages that a GPU reads directly where they come from one; their memory on the device is free meanwhile.

    Raises:
        BackendError: main memory, or at the end the device, has no room for them.
    """
    groups = _by_storage(tensors)
    devices = {group[0].device for group in groups}
    pinned = any(device.type == "cuda" for device in devices)
    homes = [group[0].device for group in groups]
    _move(groups, [torch.device("cpu")] * len(groups), pinned=pinned, what="main memory has no room for the learner")
    for device in devices:
        if device.type == "cuda":
            # other allocators, such as that of a sleeping engine, see what was freed only now
            torch.cuda.empty_cache()
    try:
        yield
    finally:
        _move(groups, homes, pinned=False, what="the device has no room for the learner that comes back")


def _by_storage(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[int, dict[int, Tensor]] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() > 0:
            groups.setdefault(storage.data_ptr(), {})[id(tensor)] = tensor
    return [list(group.values()) for group in groups.values()]


def _move(groups: Sequence[Sequence[Tensor]], places: Sequence[torch.device], *, pinned: bool, what: str) -> None:
    """Each group to a copy of its storage: all are copied before the first one is exchanged, so that a failure changes nothing."""
    copies: list[Tensor] = []
    try:
        for (tensor, *_), place in zip(groups, places, strict=True):
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())  # pyright: ignore[reportArgumentType]
            copy = torch.empty(flat.numel(), dtype=torch.uint8, device=place, pin_memory=pinned)
            copies.append(copy.copy_(flat, non_blocking=True))
    except RuntimeError as error:
        raise BackendError(f"{what} ({first_line(error)})", fix="lower vllm.gpu_memory_utilization, or turn rollout_matching.offload off") from error
    if any(device.type == "cuda" for device in (*places, *(group[0].device for group in groups))):
        torch.cuda.synchronize()
    for group, copy in zip(groups, copies, strict=True):
        for tensor in group:
            view = torch.empty(0, dtype=tensor.dtype, device=copy.device)
            tensor.data = view.set_(copy.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())  # pyright: ignore[reportArgumentType]
