"""The learner's side of asynchronous rollouts on one rank: weight syncs at step boundaries, the two gates, and the packs of Channel B.

consumes: ready packs. produces: policy versions and decisions. waits for: the generation under way before a sync, the rounds that another rank has begun, and,
with `wait_for_b`, packs. unblocked by: the actor. All ranks make the same calls in the same order; what they exchange is small.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from coordexp.metrics.fold import MetricFold
from coordexp.rollout.actor import Actor, ActorState, BackOff
from coordexp.rollout.gates import Decision, Gates, InvariantError, OnStarvation, RankState, check_states, check_taken
from coordexp.rollout.meeting import Meeting, Timer
from coordexp.rollout.pace import Recent
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.ready_queue import ReadyPack, ReadyQueue
from coordexp.rollout.window import WindowRule
from coordexp.training.async_rounds import AsyncRounds
from coordexp.training.channels import ChannelSchedule
from coordexp.training.ranks import gather_objects
from coordexp.types.errors import BackendError
from coordexp.types.sequences import StepPlan

_ASK_AGAIN_S: Final = 30.0
"""Ranks that wait for packs tell each other so often: an exchange between them must not run into its own time-out."""
_CLOSE_S: Final = 8
_PREFIX: Final = "stage2_ab/async/"


class PolicyServers(Protocol):
    """The rollout servers, as the learner sees them."""

    @property
    def needs_sync(self) -> bool:
        """A server was lost: it is asked nothing until weights were pushed again. Each rank knows what it has seen itself."""
        ...

    def push(self, version: int) -> None:
        """Send the learner's weights of this moment, under this version. Every rank calls it at the same time, rank 0 sends; then all know who has them.

        A server that could not be reached is no error while another one has the weights; it needs a sync then, and is asked nothing.

        Raises:
            BackendError: no server has them.
        """
        ...

    def abort(self) -> None:
        """End the generation under way with a `BackendError`, as far as that is possible. From any thread."""
        ...


@dataclass(frozen=True, slots=True)
class AsyncSettings:
    """Example: `AsyncSettings(queue_limit=4, prefetch_target_packs=2, version_window=1, sync_every_steps=1)`"""

    queue_limit: int
    prefetch_target_packs: int
    version_window: int
    sync_every_steps: int
    wait_for_b: bool = False
    wait_timeout_s: float = 1800.0
    """Of every wait of the learner."""
    max_skipped_b: int = 20
    on_starvation: OnStarvation = "stop"


class AsyncRollouts:
    """Owns clock, queue and actor. The learner's thread alone uses it.

    Example, for each step:
        rollouts.begin_step(step, fold)
        plan = rollouts.decide(step, fold)
        if plan.channel == "B":
            packs = rollouts.take(plan, fold)
    """

    def __init__(
        self,
        rounds: AsyncRounds,
        servers: PolicyServers,
        *,
        settings: AsyncSettings,
        channels: ChannelSchedule,
        packs_per_step: int,
        num_steps: int | None = None,
        first_round: int = 0,
        rank: int = 0,
        world_size: int = 1,
        say: Callable[[str], None] = lambda _: None,
        timer: Timer | None = None,
        back_off: BackOff | None = None,
    ) -> None:
        """Args beside the obvious.

        packs_per_step: of a Channel B step on each rank: the accumulation steps.
        num_steps: of the whole training; the actor makes nothing for later ones.
        first_round: rounds that were trained on before, in a resumed run.
        """
        self._servers, self._settings, self._channels = servers, settings, channels
        self._packs_per_step, self._rank, self._world_size, self._say = packs_per_step, rank, world_size, say
        self._meeting = Meeting(timer)
        self.clock = PolicyClock(self._meeting, first_round=first_round)
        self.queue = ReadyQueue(settings.queue_limit, window=settings.version_window, clock=self.clock)
        self._rule = WindowRule(
            channels.num_b,
            packs_per_step=packs_per_step,
            target=settings.prefetch_target_packs,
            window=settings.version_window,
            sync_every_steps=settings.sync_every_steps,
            num_steps=num_steps,
        )
        self.actor = Actor(rounds, clock=self.clock, queue=self.queue, rule=self._rule, back_off=back_off)
        self._gates = Gates(
            packs_per_step=packs_per_step,
            wait_for_b=settings.wait_for_b,
            wait_timeout_s=settings.wait_timeout_s,
            max_skipped_b=settings.max_skipped_b,
            on_starvation=settings.on_starvation,
        )
        self._steps = Recent()
        self._trains_since: float | None = None
        self._synced_at: int | None = None
        """Step before which the servers got the weights last; None: never."""
        self._is_sync_overdue = False
        self._sync_error: str | None = None
        self._step_version = 0
        self.num_rounds_used = first_round
        """One more than the newest round that was trained on."""

    def begin_step(self, step: int, fold: MetricFold) -> None:
        """Send the weights to the servers if that is due: at the first step, every `sync_every_steps`, and when a server was lost.

        Raises:
            BackendError: the servers do not take the weights at the first step.
            UserError: an actor failed, or the generation under way does not end.
        """
        self.clock.advance(step=step)
        if self._trains_since is not None:
            self._steps.add(self._meeting.timer.now() - self._trains_since)
        states = self._exchange(step)
        is_regular = step % self._settings.sync_every_steps == 0 and self._synced_at != step
        has_lost = any(needs_sync for _, needs_sync in states)
        is_due = self._synced_at is None or is_regular or self._is_sync_overdue or has_lost
        fold.add(f"{_PREFIX}sync_in_progress", float(is_due))
        idle_s = 0.0
        if is_due:
            idle_s = self._stop_generation()
            self._push(step, fold)
            self._resume(step)
        fold.add("time/learner_idle_s", idle_s, 0.0)

    def _exchange(self, step: int) -> list[tuple[RankState, bool]]:
        """The states of all ranks, none of which has failed."""
        states = gather_objects((self._state(step, waited_s=0.0), self._servers.needs_sync), world_size=self._world_size)
        self._raise_own_failure([state for state, _ in states])
        check_states([state for state, _ in states], step=step)
        return states

    def _raise_own_failure(self, states: Sequence[RankState]) -> None:
        """As it was raised in the actor. Only what all ranks have heard of: they end together."""
        if states[self._rank].failure is not None:
            self._meeting.check()

    def _state(self, step: int, *, waited_s: float) -> RankState:
        failure, report = self._meeting.failure, self.actor.report
        server_error = str(report.server_error) if report.server_error is not None else self._sync_error
        return RankState(
            rank=self._rank,
            step=step,
            version=self.clock.version,
            ready=self.queue.ready,
            queue=str(self.queue),
            num_rounds=self.clock.num_rounds,
            is_generating=self.clock.is_generating,
            round_s=self.actor.durations.longest_s,
            step_s=self._steps.longest_s,
            waited_s=waited_s,
            failure=None if failure is None else "".join(traceback.format_exception_only(failure)).strip(),
            server_error=server_error,
        )

    def _stop_generation(self) -> float:
        """Close the fence on every rank, with equally many rounds behind it; returns the seconds that this took."""
        start = self._meeting.timer.now()
        timeout_s = self._settings.wait_timeout_s
        mine = self.clock.stop_generation(timeout_s=timeout_s)
        most = max(gather_objects(mine, world_size=self._world_size))
        if mine < most:
            # a version may differ between ranks in no round: else their packs could not be trained on together
            self.clock.allow_rounds(below=most)
            self._meeting.wait_up_to(lambda: self.clock.num_rounds >= most or self.actor.is_stuck, timeout_s=timeout_s)
            # what could not be made is not begun during the sync
            self.clock.revoke_rounds()
            self.clock.stop_generation(timeout_s=timeout_s)
        return self._meeting.timer.now() - start

    def _push(self, step: int, fold: MetricFold | None) -> bool:
        """Send the weights; the fence is closed. Returns whether a server has them."""
        start = self._meeting.timer.now()
        version, error = self.clock.version + 1, None
        gather_objects(None, world_size=self._world_size)
        try:
            self._servers.push(version)
        except BackendError as trouble:
            error = trouble
        errors = gather_objects(None if error is None else str(error), world_size=self._world_size)
        said = next((text for text in errors if text is not None), None)
        is_news = not self._is_sync_overdue
        self._sync_error, self._is_sync_overdue = said, said is not None
        if said is not None and self._synced_at is None:
            raise error or BackendError(said)
        if said is not None and self._rank == 0 and is_news:
            self._say(f"warning: no server took the weights before step {step}, tried again before every step: {said}")
        if fold is not None:
            fold.add("time/weight_sync_s", self._meeting.timer.now() - start)
        if said is None:
            self._synced_at = step
        return said is None

    def _resume(self, step: int) -> None:
        """Open the fence; the version goes up if the servers have new weights."""
        has_synced = not self._is_sync_overdue
        with self._meeting.changing():
            self.clock.resume_generation(has_synced=has_synced)
            self.queue.drop_stale()
            self.clock.advance(sync_step=step if has_synced else None)
        if self.actor.report.state is ActorState.NOT_STARTED:
            self.actor.start()

    @contextmanager
    def current_policy(self, step: int) -> Generator[None]:
        """A block in which the servers hold the weights of this moment, and the actor does not use them: an evaluation."""
        self._stop_generation()
        try:
            if not self._push(step, None):
                raise BackendError(f"no server took the weights for an evaluation: {self._sync_error}")
            yield
        finally:
            self._resume(step)

    def decide(self, step: int, fold: MetricFold) -> StepPlan:
        """Which channel `step` runs; the packs of Channel B are reserved.

        Raises:
            InvariantError: ranks disagree.
            UserError: an actor failed, packs did not come in time, or too many steps were skipped.
        """
        start, wants_b = self._meeting.timer.now(), self._channels.is_b(step)
        while True:
            waited_s = self._meeting.timer.now() - start
            states = gather_objects(self._state(step, waited_s=waited_s), world_size=self._world_size)
            self._raise_own_failure(states)
            outlook = self._rule.outlook(step=step, sync_step=self.clock.sync_step)
            decision = self._agree(self._gates.decide(states, step=step, wants_b=wants_b, outlook=outlook), step=step)
            self.queue.want(decision.wanted)
            if decision.plan is not None:
                break
            self.clock.advance(round_limit=decision.round_limit)
            self._wait_for_packs(decision.wanted)
        plan, depth = decision.plan, self.queue.counts.queued
        with self._meeting.changing():
            # together: the actor must not see the packs gone and the step still to come
            self.clock.advance(step=step + 1, round_limit=decision.round_limit)
            if plan.policy_version is not None:
                self.queue.reserve(version=plan.policy_version, count=plan.num_packs)
        self._trains_since = self._meeting.timer.now()
        fold.add("time/learner_idle_s", self._trains_since - start if wants_b else 0.0)
        self._measure(decision, depth=depth, wants_b=wants_b, fold=fold)
        return plan

    def _agree(self, decision: Decision, *, step: int) -> Decision:
        """Rank 0's decision. Every rank has made it from the same states: another one is an error."""
        decisions = gather_objects(decision, world_size=self._world_size)
        for rank, other in enumerate(decisions):
            if other != decisions[0]:
                raise InvariantError(f"rank {rank} decided {other}, rank 0 {decisions[0]}; {self.queue}", where=f"step {step}")
        return decisions[0]

    def _wait_for_packs(self, wanted: int | None) -> None:
        def has_enough() -> bool:
            ready = self.queue.ready
            # packs of several versions are worth asking again: then one version is agreed on
            return (sum(ready.values()) if wanted is None else ready.get(wanted, 0)) >= self._packs_per_step

        self._meeting.wait_up_to(has_enough, timeout_s=min(_ASK_AGAIN_S, self._settings.wait_timeout_s), raises_failure=False)

    def take(self, plan: StepPlan, fold: MetricFold) -> tuple[ReadyPack, ...]:
        """The packs that were reserved for a Channel B step.

        Raises:
            InvariantError: they are not those of the plan.
        """
        packs = self.queue.take()
        versions = [pack.version for pack in packs]
        lag = check_taken(plan, versions, version=self.clock.version, window=self._settings.version_window, queue=str(self.queue))
        self._step_version = versions[0]
        self.num_rounds_used = max(self.num_rounds_used, 1 + max(pack.round for pack in packs))
        fold.add(f"{_PREFIX}ver_step", self._step_version)
        fold.add(f"{_PREFIX}ver_lag", lag)
        return packs

    def _measure(self, decision: Decision, *, depth: int, wants_b: bool, fold: MetricFold) -> None:
        """`stage2_ab/async/*` of a step."""
        assert decision.plan is not None
        report, counts, settings = self.actor.report, self.queue.counts, self._settings
        values = {
            "policy_wants_b": float(wants_b),
            "step_kind_b": float(decision.plan.channel == "B"),
            "b_step_skipped_due_to_queue": float(decision.is_skipped),
            "queue_depth": depth,
            "queue_limit": settings.queue_limit,
            "prefetch_target_packs": settings.prefetch_target_packs,
            "ver_current": self.clock.version,
            "version_window": settings.version_window,
            "drop_stale_total": counts.stale,
            "drop_oldest_total": counts.evicted,
            "prefetch_success_total": counts.produced,
            "prefetch_fail_total": report.num_failures,
            "prefetch_iter_total": report.num_rounds,
            "prefetch_state": report.state,
            "prefetch_last_progress_s_ago": report.last_progress_s_ago,
            "infer_inflight": report.num_requests,
            "is_prefetch_in_prepare_b": float(report.state in (ActorState.PREPARING, ActorState.FENCED, ActorState.GENERATING, ActorState.PACKING)),
            "is_prefetch_queue_full": float(report.state in (ActorState.WAITING, ActorState.QUEUE_FULL)),
            "is_prefetch_no_segments": float(report.has_empty_round),
            "is_prefetch_error": float(report.server_error is not None),
        }
        for key, value in values.items():
            fold.add(_PREFIX + key, float(value))

    def close(self) -> bool:
        """End the actor; returns False when a generation that cannot be interrupted still runs. Twice is harmless."""
        for _ in range(_CLOSE_S):
            # again and again: a generation may have been about to begin
            if self.clock.is_generating:
                self._servers.abort()
            if self.actor.close(timeout_s=1.0):
                return True
        self._say(f"warning: the rollouts under way did not end within {_CLOSE_S} s; they end with the process")
        return False
