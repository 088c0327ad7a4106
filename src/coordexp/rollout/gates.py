"""Which channel a step runs. Two gates: the schedule wants Channel B, and every rank has enough fresh packs of one version.

Rank 0 decides from the states of all ranks and tells them; each rank then reserves what was counted. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from coordexp.rollout.meeting import WaitTimeoutError
from coordexp.rollout.pace import Pace
from coordexp.rollout.window import Outlook
from coordexp.types.errors import BackendError, UserError
from coordexp.types.sequences import StepPlan

_WAY_OUT: Final = "look at the rollout servers; or set a larger async.version_window or async.sync_every_steps, a lower schedule.b_ratio"

_PROBE_EVERY: Final = 5
"""Skipped steps after which a round is begun although it would come too late, to measure again how long one takes."""

OnStarvation: TypeAlias = Literal["stop", "a_only"]


class InvariantError(UserError):
    """The parts of the asynchronous training disagree: a mistake of the program, said with all that is known."""


@dataclass(frozen=True, slots=True)
class RankState:
    """What a rank tells before a step. Example: `RankState(rank=0, step=7, version=3, ready={2: 4, 3: 2}, queue="queue with 6 …")`"""

    rank: int
    step: int
    version: int
    ready: Mapping[int, int]
    """Fresh packs by version."""
    queue: str
    """The queue in words, for errors."""
    num_rounds: int = 0
    """Rounds that it has generated."""
    is_generating: bool = False
    """One more is under way."""
    round_s: float | None = None
    step_s: float | None = None
    """Longest of the last rounds, and of the last steps; None: not known yet."""
    waited_s: float = 0.0
    """Since the step asked first."""
    failure: str | None = None
    """What ended its actor."""
    server_error: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What rank 0 tells. Without a plan all ranks wait and ask again."""

    plan: StepPlan | None
    wanted: int | None = None
    """Every rank has packs, but not of one version: all make this one."""
    is_skipped: bool = False
    """The schedule wanted Channel B, and the packs were not there."""
    round_limit: int = 0
    """Rounds of lower numbers may begin: see `coordexp.rollout.pace`."""


class Gates:
    """Rank 0's memory of what could not run.

    Example: `Gates(packs_per_step=2).decide([state], step=7, wants_b=True, outlook=outlook).plan == StepPlan(7, "B", num_packs=2, policy_version=3)`
    """

    def __init__(
        self, *, packs_per_step: int, wait_for_b: bool = False, wait_timeout_s: float = 1800.0, max_skipped_b: int = 20, on_starvation: OnStarvation = "stop"
    ) -> None:
        """Args beside the obvious.

        packs_per_step: of a Channel B step, on every rank.
        wait_for_b: wait for packs instead of running Channel A, for at most `wait_timeout_s`.
        max_skipped_b: scheduled Channel B steps in a row that ran Channel A; the one after them ends the run, unless `on_starvation` is `a_only`.
        """
        self._packs_per_step, self._wait_for_b, self._wait_timeout_s = packs_per_step, wait_for_b, wait_timeout_s
        self._max_skipped_b, self._on_starvation = max_skipped_b, on_starvation
        self.num_skipped_in_a_row = 0

    def decide(self, states: Sequence[RankState], *, step: int, wants_b: bool, outlook: Outlook) -> Decision:
        """The plan of a step, and how far the actors may go until the next one.

        Raises:
            InvariantError: the ranks are at different steps or versions, or hold packs that cannot be.
            UserError: an actor failed, or too many Channel B steps were skipped.
        """
        check_states(states, step=step)
        decision = self._choose(states, step=step, wants_b=wants_b)
        return replace(decision, round_limit=self._round_limit(states, decision, outlook))

    def _choose(self, states: Sequence[RankState], *, step: int, wants_b: bool) -> Decision:
        if not wants_b:
            return Decision(StepPlan(step, "A", num_packs=0))
        version = self._common_version(states)
        if version is not None:
            self.num_skipped_in_a_row = 0
            return Decision(StepPlan(step, "B", num_packs=self._packs_per_step, policy_version=version))
        has_packs = all(sum(state.ready.values()) >= self._packs_per_step for state in states)
        wanted = states[0].version if has_packs else None
        if self._wait_for_b:
            self._check_wait(states)
            return Decision(None, wanted=wanted)
        self._count_skip(states)
        return Decision(StepPlan(step, "A", num_packs=0), wanted=wanted, is_skipped=True)

    def _common_version(self, states: Sequence[RankState]) -> int | None:
        """The newest of which every rank holds enough."""
        first, *others = [{version for version, count in state.ready.items() if count >= self._packs_per_step} for state in states]
        return max(first.intersection(*others), default=None)

    def _round_limit(self, states: Sequence[RankState], decision: Decision, outlook: Outlook) -> int:
        begun, done = max(state.num_rounds + state.is_generating for state in states), min(state.num_rounds for state in states)
        if decision.plan is None:
            return max(begun, 1 + max(state.num_rounds for state in states))
        # seldom, so that durations of a bad time do not hold for ever
        if decision.is_skipped and self.num_skipped_in_a_row % _PROBE_EVERY == _PROBE_EVERY - 1:
            return max(begun, done + 1)
        left = [_left_over(state, decision.plan) for state in states]
        pace = Pace.of([(state.round_s, state.step_s) for state in states])
        stocks = [min(self._stock(state, packs, outlook, distance) for state, packs in zip(states, left, strict=True)) for distance in outlook.b_steps]
        # the n-th of these steps needs n + 1 steps' worth of packs
        lacking = [distance for number, (distance, stock) in enumerate(zip(outlook.b_steps, stocks, strict=True)) if stock <= number]
        if not self._wait_for_b:
            lacking = [distance for distance in lacking if pace.is_ready_before(distance, steps_to_sync=outlook.steps_to_sync)]
        if not lacking:
            return begun
        is_needed = pace.is_better_begun_now(lacking[0], steps_to_sync=outlook.steps_to_sync)
        return max(begun, done + min(len(lacking), max(pace.rounds_before(outlook.steps_to_sync), int(is_needed))))

    def _stock(self, state: RankState, packs: Mapping[int, int], outlook: Outlook, distance: int) -> int:
        """Steps' worth of packs of one version that are still fresh at a step."""
        oldest = state.version + outlook.syncs_before(distance) - outlook.window
        return sum(count // self._packs_per_step for version, count in packs.items() if version >= oldest)

    def _check_wait(self, states: Sequence[RankState]) -> None:
        if states[0].waited_s < self._wait_timeout_s:
            return
        late = next((state for state in states if max(state.ready.values(), default=0) < self._packs_per_step), states[0])
        raise WaitTimeoutError(
            f"waited {states[0].waited_s:.0f} s for {self._packs_per_step} ready packs of one version ({_describe(states)}); rank {late.rank}: {late.queue}",
            where="stage2_ab.channel_b.wait_for_b",
            fix=_WAY_OUT,
        )

    def _count_skip(self, states: Sequence[RankState]) -> None:
        self.num_skipped_in_a_row += 1
        if self.num_skipped_in_a_row < self._max_skipped_b or self._on_starvation == "a_only":
            return
        raise BackendError(
            f"{self.num_skipped_in_a_row} scheduled Channel B steps in a row had no packs ({_describe(states)}); rank 0: {states[0].queue}",
            where="stage2_ab.channel_b.max_skipped_b",
            fix=f"{_WAY_OUT}, wait_for_b: true, or on_starvation: a_only",
        )


def _left_over(state: RankState, plan: StepPlan) -> Mapping[int, int]:
    """Packs of a rank when the step has taken its own."""
    return {version: count - plan.num_packs * (version == plan.policy_version) for version, count in state.ready.items()}


def _describe(states: Sequence[RankState]) -> str:
    error = next((state.server_error for state in states if state.server_error is not None), None)
    return f"the last server error: {error}" if error is not None else "the servers answer, but too slowly"


def check_states(states: Sequence[RankState], *, step: int) -> None:
    """Raise what no rank may go on from.

    Raises:
        UserError: an actor failed.
        InvariantError: see `Gates.decide`.
    """
    failed = next((state for state in states if state.failure is not None), None)
    if failed is not None:
        raise UserError(f"the actor of rank {failed.rank} failed before step {step}: {failed.failure}")
    first = states[0]
    for state in states:
        if (state.step, state.version) != (step, first.version):
            what = f"rank {state.rank} is at step {state.step} with policy version {state.version}, rank 0 at step {first.step} with {first.version}"
            raise InvariantError(f"{what}; {state.queue}")
        if any(version > state.version for version in state.ready):
            raise InvariantError(f"rank {state.rank} holds packs of a version that does not exist before step {step}; {state.queue}")


def check_taken(plan: StepPlan, versions: Sequence[int], *, version: int, window: int, queue: str) -> int:
    """How many versions old the packs of a Channel B step are; `versions` are those of the packs, `version` is the newest policy, `queue` is for errors.

    Raises:
        InvariantError: a wrong number of packs, packs of several versions, or of one outside the window.
    """
    where = f"step {plan.step}, channel {plan.channel}, planned {plan.num_packs} packs of version {plan.policy_version}"
    if len(versions) != plan.num_packs:
        raise InvariantError(f"{len(versions)} packs were taken; {queue}", where=where)
    if set(versions) != {plan.policy_version}:
        raise InvariantError(f"the packs that were taken are of the versions {sorted(set(versions))}; {queue}", where=where)
    lag = version - versions[0]
    if not 0 <= lag <= window:
        raise InvariantError(f"the packs are {lag} versions old, and the window is {window}; {queue}", where=where)
    return lag
