"""Which optimizer steps are on Channel B: a function of the step and the ratio, the same on every rank and after every resume."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChannelSchedule:
    """Step s (0-based) is Channel B exactly when floor((s + 1) * ratio) > floor(s * ratio): evenly spread, the share exact after every 1 / ratio steps.

    Example: with `b_ratio=0.25` steps 3, 7, 11, … are Channel B.
    """

    b_ratio: float
    """In [0, 1]; 0: always A, 1: always B."""

    def __post_init__(self) -> None:
        if not 0 <= self.b_ratio <= 1:
            raise ValueError(f"b_ratio must be in [0, 1], got {self.b_ratio}")

    def is_b(self, step: int) -> bool:
        return self.num_b(step + 1) > self.num_b(step)

    def num_b(self, step: int) -> int:
        """Channel B steps before `step`."""
        return math.floor(step * self.b_ratio)

    def step_of_b(self, number: int) -> int:
        """The step that is the `number`-th Channel B step (0-based); `b_ratio` is not 0."""
        step = max(0, math.floor(number / self.b_ratio) - 1)
        while self.num_b(step + 1) <= number:
            step += 1
        return step

    def num_a(self, step: int) -> int:
        """Channel A steps before `step`."""
        return step - self.num_b(step)
