"""How many packs the version window can still use: the rule by which the actor waits instead of making packs that would become too old.

With a sync every S steps and a window of w versions, packs of the current version are used by the steps until the (w+1)-th next sync; packs that are k
versions older until the (w+1-k)-th. The channel schedule tells how many Channel B steps these are, and each takes the same number of packs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outlook:
    """What follows the step that is decided. Example: `Outlook(b_steps=(2, 6), steps_to_sync=3, sync_every_steps=4, window=1)`"""

    b_steps: tuple[int, ...]
    """Channel B steps that could use packs of the current version: how many steps train before each, the decided one included."""
    steps_to_sync: int
    """Steps that train until weights are sent, the decided one included."""
    sync_every_steps: int
    window: int

    def syncs_before(self, distance: int) -> int:
        """Syncs before the step that is so far away."""
        return 0 if distance < self.steps_to_sync else 1 + (distance - self.steps_to_sync) // self.sync_every_steps


@dataclass(frozen=True, slots=True)
class WindowRule:
    """Example: with a sync at every step, a window of 2, 4 packs a step and only Channel B, 3 steps can use what is made now: `usable(0, …) == 12`."""

    num_b: Callable[[int], int]
    """Channel B steps before a step, as scheduled."""
    packs_per_step: int
    """Of a Channel B step on this rank."""
    target: int
    """Packs that are queued at most before another round begins."""
    window: int
    sync_every_steps: int
    num_steps: int | None = None
    """Of the whole training; None: it does not end."""

    def usable(self, lag: int, *, step: int, sync_step: int) -> int:
        """Packs that the steps from `step` on can take of a version that is `lag` syncs old, when the last regular sync was before `sync_step`."""
        num_syncs = self.window - lag + 1
        if num_syncs < 1:
            return 0
        end = (sync_step // self.sync_every_steps + num_syncs) * self.sync_every_steps
        if self.num_steps is not None:
            end = min(end, self.num_steps)
        return self.packs_per_step * max(0, self.num_b(max(end, step)) - self.num_b(step))

    def outlook(self, *, step: int, sync_step: int) -> Outlook:
        """What follows `step`, before which the last sync was the one before `sync_step`."""
        every = self.sync_every_steps
        to_sync = max(1, (sync_step // every + 1) * every - step)
        far = to_sync + self.window * every
        if self.num_steps is not None:
            far = min(far, self.num_steps - step)
        b_steps = tuple(distance for distance in range(1, far) if self.num_b(step + distance + 1) > self.num_b(step + distance))
        return Outlook(b_steps, steps_to_sync=to_sync, sync_every_steps=every, window=self.window)

    def has_room(self, ready: Mapping[int, int], *, version: int, step: int, sync_step: int) -> bool:
        """Whether a round of `version` should begin while `ready` packs, by version, wait.

        Neither they nor it become stale then, if every scheduled step runs.
        """
        num_ready = sum(ready.values())
        oldest = min(ready, default=version)
        return num_ready < min(self.target, self.usable(version - oldest, step=step, sync_step=sync_step))
