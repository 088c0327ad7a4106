"""How many packs the version window can still use: the rule by which the actor waits instead of making packs that would become too old.

With a sync every S steps and a window of w versions, packs of the current version are used by the steps until the (w+1)-th next sync; packs that are k
versions older until the (w+1-k)-th. The channel schedule tells how many Channel B steps these are, and each takes the same number of packs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


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

    def has_room(self, ready: Mapping[int, int], *, version: int, step: int, sync_step: int) -> bool:
        """Whether a round of `version` should begin while `ready` packs, by version, wait.

        Neither they nor it become stale then, if every scheduled step runs.
        """
        num_ready = sum(ready.values())
        oldest = min(ready, default=version)
        return num_ready < min(self.target, self.usable(version - oldest, step=step, sync_step=sync_step))
