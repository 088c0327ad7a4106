"""A fleet of learner ranks and rollout servers in simulated time. Clock, queue, window rule, actor's decisions and gates are the product's own; only durations
are made up, and what a thread does is done by events.

A waiting learner gives the time to the next event: the product's waits run on a timer that jumps.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from coordexp.rollout.actor import Actor
from coordexp.rollout.gates import Decision, Gates, RankState, check_states, check_taken
from coordexp.rollout.meeting import Meeting
from coordexp.rollout.pace import Recent
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.ready_queue import Admission, ReadyPack, ReadyQueue
from coordexp.rollout.window import WindowRule
from coordexp.training.channels import ChannelSchedule
from coordexp.types.sequences import Pack

LONG_S = 1e9
ENCODE_S = 0.01
SYNC_S = 0.02
LEARN_SPREAD = 0.05
ROLL_SPREAD = 0.15
"""Of the logarithm of a duration: a step, and the share of one server in a round."""
PACKS = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """A step on the learner takes 1 s, with Channel B at `b_ratio` of the steps."""

    ratio: float
    """Mean seconds of a round on one server, all ranks at work."""
    ranks: int
    servers: int
    window: int
    sync_every: int = 1
    b_ratio: float = 1.0
    waits: bool = True
    """`wait_for_b`; else a step without packs runs Channel A."""
    target_steps: int = 2
    """Steps' worth of packs that the actor aims at."""


@dataclass(frozen=True, slots=True)
class Outcome:
    idle_share: float
    """Time in which the learner waits for packs, or for rollouts under way before a sync."""
    sync_idle_share: float
    """Of the synchronous form with the same durations."""
    load: float
    """Seconds of the slowest rank's rounds for each second of learning."""
    slowest_s: float
    """Mean seconds until the slowest rank has its round."""
    discarded_share: float
    """Packs that were made and not trained on, but those still queued."""
    mean_lag: float
    num_b: int


class EventTimer:
    """Simulated time; a wait runs the next event."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self.seconds

    def at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (seconds, next(self._numbers), event))

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        self.run_next()

    def run_next(self) -> None:
        if not self._events:
            raise RuntimeError("everybody waits for somebody else")
        self.seconds, _, event = heapq.heappop(self._events)
        event()

    def run_until(self, seconds: float) -> None:
        while self._events and self._events[0][0] <= seconds:
            self.run_next()
        self.seconds = max(self.seconds, seconds)


class Rank:
    """One learner rank: what its actor's thread would do, as events."""

    def __init__(self, setting: Setting, schedule: ChannelSchedule, timer: EventTimer, durations: np.random.Generator, num_steps: int) -> None:
        self._setting, self._timer, self._durations = setting, timer, durations
        target = PACKS * setting.target_steps
        self.clock = PolicyClock(Meeting(timer))
        self.queue = ReadyQueue(target + PACKS, window=setting.window, clock=self.clock)
        self.rule = WindowRule(
            schedule.num_b, packs_per_step=PACKS, target=target, window=setting.window, sync_every_steps=setting.sync_every, num_steps=num_steps
        )
        self.actor = Actor(self, clock=self.clock, queue=self.queue, rule=self.rule)
        self._is_busy = False
        self._is_encoded = False
        self._waiting: list[ReadyPack] = []

    def begin(self, number: int):  # the thread of the actor is never started
        raise NotImplementedError

    def poll(self) -> None:
        """What the actor does when it is woken."""
        while self._waiting and self.queue.offer(self._waiting[0]) is not Admission.FULL:
            self._waiting.pop(0)
        if self._is_busy or self._waiting:
            return
        if self._is_encoded:
            if self.clock.is_open(self.clock.num_rounds):
                self._generate()
        elif self.actor.wants_round():
            self._is_busy = True
            self._timer.at(self._timer.now() + ENCODE_S, self._encoded)

    def _encoded(self) -> None:
        self._is_busy, self._is_encoded = False, True
        self.poll()

    def _generate(self) -> None:
        self._is_busy, self._is_encoded = True, False
        number, stack = self.clock.num_rounds, ExitStack()
        version = stack.enter_context(self.clock.generation(number, timeout_s=LONG_S))

        def end() -> None:
            stack.close()
            self.actor.durations.add(ENCODE_S + seconds)
            self._is_busy = False
            self._waiting = [ReadyPack(Pack(segments=()), version=version, round=number) for _ in range(PACKS)]
            self.poll()

        seconds = self.round_s()
        self._timer.at(self._timer.now() + seconds, end)

    def round_s(self) -> float:
        """A round ends with the slowest of its servers."""
        spread = self._durations.lognormal(-(ROLL_SPREAD**2) / 2, ROLL_SPREAD, self._setting.servers)
        return self._setting.ratio * float(spread.max())


def simulate(setting: Setting, *, num_steps: int, seed: int = 0) -> Outcome:
    """A training of `num_steps` steps."""
    durations = np.random.default_rng(seed)
    schedule, timer = ChannelSchedule(setting.b_ratio), EventTimer()
    ranks = [Rank(setting, schedule, timer, durations, num_steps) for _ in range(setting.ranks)]
    gates = Gates(packs_per_step=PACKS, wait_for_b=setting.waits, wait_timeout_s=LONG_S, on_starvation="a_only")
    idle_s, learn_s, steps = 0.0, 0.0, Recent()
    lags: list[int] = []
    for step in range(num_steps):
        if step % setting.sync_every == 0:
            idle_s += _sync(ranks, timer, step)
        start = timer.now()
        decision = _decide(ranks, gates, timer, steps, step=step, wants_b=schedule.is_b(step))
        plan = decision.plan
        assert plan is not None
        idle_s += timer.now() - start
        for rank in ranks:
            rank.queue.want(decision.wanted)
            rank.clock.advance(step=step + 1, round_limit=decision.round_limit)
            if plan.policy_version is not None:
                rank.queue.reserve(version=plan.policy_version, count=PACKS)
                versions = [pack.version for pack in rank.queue.take()]
                lags.append(check_taken(plan, versions, version=rank.clock.version, window=setting.window, queue=str(rank.queue)))
            rank.poll()
        seconds = float(durations.lognormal(-(LEARN_SPREAD**2) / 2, LEARN_SPREAD))
        learn_s += seconds
        steps.add(seconds)
        timer.run_until(timer.now() + seconds)
    return _summarize(setting, ranks, idle_s=idle_s, total_s=timer.now(), learn_s=learn_s, lags=lags, num_steps=num_steps)


def _sync(ranks: list[Rank], timer: EventTimer, step: int) -> float:
    start = timer.now()
    for rank in ranks:
        rank.clock.fence()
    for rank in ranks:
        rank.clock.stop_generation(timeout_s=LONG_S)
    most = max(rank.clock.num_rounds for rank in ranks)
    for rank in ranks:
        if rank.clock.num_rounds < most:
            rank.clock.allow_rounds(below=most)
            rank.poll()
    for rank in ranks:
        # a pack that waits for room is not waited for: see AsyncRollouts
        rank.clock.meeting.wait_up_to(lambda rank=rank: rank.clock.num_rounds >= most or bool(rank._waiting), timeout_s=LONG_S)
        rank.clock.stop_generation(timeout_s=LONG_S)
    idle_s = timer.now() - start
    timer.run_until(timer.now() + SYNC_S)
    for rank in ranks:
        rank.clock.resume_generation(has_synced=True)
        rank.queue.drop_stale()
        rank.clock.advance(sync_step=step)
    for rank in ranks:
        rank.poll()
    return idle_s


def _decide(ranks: list[Rank], gates: Gates, timer: EventTimer, steps: Recent, *, step: int, wants_b: bool) -> Decision:
    for rank in ranks:
        rank.clock.advance(step=step)
        rank.poll()
    while True:
        states = [
            RankState(
                rank=number,
                step=step,
                version=rank.clock.version,
                ready=rank.queue.ready,
                queue="",
                num_rounds=rank.clock.num_rounds,
                is_generating=rank.clock.is_generating,
                round_s=rank.actor.durations.longest_s,
                step_s=steps.longest_s,
            )
            for number, rank in enumerate(ranks)
        ]
        check_states(states, step=step)
        outlook = ranks[0].rule.outlook(step=step, sync_step=ranks[0].clock.sync_step)
        decision = gates.decide(states, step=step, wants_b=wants_b, outlook=outlook)
        if decision.plan is not None:
            return decision
        for rank in ranks:
            rank.queue.want(decision.wanted)
            rank.clock.advance(round_limit=decision.round_limit)
            rank.poll()
        timer.run_next()


def _summarize(setting: Setting, ranks: list[Rank], *, idle_s: float, total_s: float, learn_s: float, lags: list[int], num_steps: int) -> Outcome:
    counts = [rank.queue.counts for rank in ranks]
    assert all(count.is_complete for count in counts)
    produced = sum(count.produced for count in counts)
    discarded = sum(count.stale + count.lost for count in counts)
    slowest = float(np.mean([max(rank.round_s() for rank in ranks) for _ in range(200)]))
    num_b = len(lags) // setting.ranks
    rolls_s = slowest * num_b
    return Outcome(
        idle_share=idle_s / total_s,
        sync_idle_share=rolls_s / (rolls_s + learn_s),
        load=slowest * num_b / learn_s,
        slowest_s=slowest,
        discarded_share=discarded / max(1, produced),
        mean_lag=float(np.mean(lags)) if lags else 0.0,
        num_b=num_b,
    )
