"""How long rounds and steps take, and how many rounds end before the next weight sync.

A sync waits for the rounds that are under way, on every rank. A round that would not end in time is therefore begun only when the next step needs it: it would
be waited for anyway. All ranks get the same number, so that none has to make a round in the middle of a sync because another one was quicker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_KEPT: Final = 4


class Recent:
    """The longest of the last durations: what comes next will hardly take longer."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    @property
    def longest_s(self) -> float | None:
        """None: nothing has ended yet."""
        return max(self._seconds, default=None)


@dataclass(frozen=True, slots=True)
class Pace:
    """Example: `Pace.of([(0.5, 1.0), (0.7, 1.0)])` is a round of 0.7 steps."""

    round_steps: float | None
    """Steps that train while the slowest rank makes a round; None: not known yet."""

    @classmethod
    def of(cls, durations: Sequence[tuple[float | None, float | None]]) -> Pace:
        """From the seconds of a (round, step) on every rank."""
        rounds = [seconds for seconds, _ in durations if seconds is not None]
        steps = [seconds for _, seconds in durations if seconds is not None]
        return cls(max(rounds) / min(steps) if rounds and steps and min(steps) > 0 else None)

    def rounds_before(self, num_steps: int) -> int:
        """Rounds, one behind the other, that end while so many steps train; one while durations are not known."""
        if self.round_steps is None:
            return 1
        return math.floor(num_steps / self.round_steps) if self.round_steps > 0 else num_steps

    def is_ready_before(self, distance: int, *, steps_to_sync: int) -> bool:
        """Whether a round that begins now is there when so many steps have trained; a sync waits for it."""
        return self.round_steps is None or self.round_steps <= distance or distance >= steps_to_sync

    def is_better_begun_now(self, distance: int, *, steps_to_sync: int) -> bool:
        """Whether the learner waits less for a round for the step at `distance` when it begins now, so that the sync waits for it, than behind the sync."""
        round_steps = self.round_steps or 0.0
        now = max(0.0, round_steps - min(distance, steps_to_sync))
        later = math.inf if distance < steps_to_sync else max(0.0, steps_to_sync + round_steps - distance)
        return now < later
