"""The actor's thread, without a clock: a backend that opens when the test says so, and waits that the test can see."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from coordexp.generation.prompt_ids import PromptMismatchError
from coordexp.rollout.actor import Actor, ActorState, BackOff
from coordexp.rollout.meeting import Meeting
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.ready_queue import ReadyPack, ReadyQueue
from coordexp.rollout.window import WindowRule
from coordexp.types.errors import BackendError, DataError, UserError
from coordexp.types.sequences import Pack

from .timers import WatchedTimer


@dataclass
class GatedRounds:
    """Rounds of two packs; each generation begins and ends when the test says so."""

    packs_per_round: int = 2
    errors: dict[int, list[Exception]] = field(default_factory=dict)
    """By round, one for each attempt."""
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    gate: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    made: list[tuple[int, int]] = field(default_factory=list)
    """(round, version)"""

    def begin(self, number: int) -> GatedRound:
        return GatedRound(self, number)

    def until_one_generates(self) -> None:
        assert self.begun.acquire(timeout=30), "nothing is generated"

    def let_one_end(self) -> None:
        self.gate.release()


@dataclass
class GatedRound:
    rounds: GatedRounds
    number: int
    version: int = -1
    num_requests: int = 5

    def roll(self, version: int) -> None:
        self.version = version
        self.rounds.begun.release()
        assert self.rounds.gate.acquire(timeout=30)
        if errors := self.rounds.errors.get(self.number):
            raise errors.pop(0)
        self.rounds.made.append((self.number, version))

    def packs(self) -> Sequence[ReadyPack]:
        return [ReadyPack(Pack(segments=()), version=self.version, round=self.number) for _ in range(self.rounds.packs_per_round)]


@dataclass
class Rig:
    timer: WatchedTimer
    clock: PolicyClock
    queue: ReadyQueue
    rounds: GatedRounds
    actor: Actor

    def until(self, state: ActorState) -> None:
        for _ in range(100):
            if self.actor.report.state is state:
                return
            self.timer.until_somebody_waits()
        raise AssertionError(f"the actor is {self.actor.report.state.name}")

    def sync(self) -> None:
        self.clock.stop_generation(timeout_s=10)
        self.clock.resume_generation(has_synced=True)
        self.queue.drop_stale()


@pytest.fixture
def make_rig() -> Iterator[object]:
    rigs: list[Rig] = []

    def make(*, target: int = 2, limit: int = 4, window: int = 1, sync_every_steps: int = 1, limit_rounds: int = 100, **rounds: object) -> Rig:
        timer = WatchedTimer()
        clock = PolicyClock(Meeting(timer))
        queue = ReadyQueue(limit, window=window, clock=clock)
        rule = WindowRule(lambda step: step, packs_per_step=2, target=target, window=window, sync_every_steps=sync_every_steps)
        source = GatedRounds(**rounds)  # type: ignore[arg-type]
        rig = Rig(timer, clock, queue, source, Actor(source, clock=clock, queue=queue, rule=rule, back_off=BackOff(first_s=1, most_s=4)))
        rigs.append(rig)
        clock.advance(round_limit=limit_rounds)
        rig.actor.start()
        return rig

    yield make
    for rig in rigs:
        rig.clock.meeting.close()
        for _ in range(20):
            rig.rounds.let_one_end()
        assert rig.actor.close(timeout_s=30), "the thread did not end"
        assert rig.queue.counts.is_complete


def test_it_makes_what_the_window_can_use_and_then_waits(make_rig) -> None:
    rig = make_rig(target=6, limit=8)
    for number in range(2):
        rig.rounds.until_one_generates()
        assert rig.actor.report.num_requests == 5
        rig.rounds.let_one_end()
        assert rig.clock.num_rounds <= number + 1
    rig.until(ActorState.WAITING)
    # steps 0 and 1 are all that a window of 1 leaves
    assert rig.queue.ready == {0: 4}
    assert rig.rounds.made == [(0, 0), (1, 0)]


def test_a_step_that_takes_packs_lets_it_go_on_with_the_next_version(make_rig) -> None:
    rig = make_rig(target=2)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    rig.sync()
    rig.queue.reserve(version=0, count=2)
    rig.queue.take()
    rig.clock.advance(step=1, sync_step=0)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.rounds.made == [(0, 0), (1, 1)]
    assert rig.queue.ready == {1: 2}


def test_it_begins_no_round_before_the_sync_that_makes_it_usable(make_rig) -> None:
    rig = make_rig(window=0, target=4)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    rig.queue.reserve(version=0, count=2)
    rig.queue.take()
    rig.clock.advance(step=1)
    assert not rig.actor.wants_round()
    rig.sync()
    rig.clock.advance(sync_step=1)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.rounds.made == [(0, 0), (1, 1)]
    assert rig.queue.counts.stale == 0


def test_it_goes_no_further_than_the_learner_lets_it(make_rig) -> None:
    rig = make_rig(target=8, limit=8, window=3, limit_rounds=1)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.queue.ready == {0: 2}
    assert rig.actor.durations.longest_s == 0.0
    rig.clock.advance(round_limit=2)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.queue.ready == {0: 4}


def test_server_trouble_is_counted_kept_and_the_round_is_made_after_all(make_rig) -> None:
    rig = make_rig(errors={0: [BackendError("server 8001 is gone"), BackendError("server 8001 is gone")]})
    for attempt in (1, 2):
        rig.rounds.until_one_generates()
        rig.rounds.let_one_end()
        rig.until(ActorState.BACKING_OFF)
        report = rig.actor.report
        assert (report.num_failures, str(report.server_error)) == (attempt, "server 8001 is gone")
        assert rig.actor.is_stuck
        # new weights have reached the servers: no need to wait longer
        rig.sync()
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.rounds.made == [(0, 2)]
    report = rig.actor.report
    assert (report.num_rounds, report.num_failures, report.server_error) == (3, 2, None)


def test_attempts_come_later_and_later() -> None:
    back_off = BackOff(first_s=1, most_s=30)
    assert [back_off.delay_s(number) for number in (1, 2, 3, 6, 1000)] == [1, 2, 4, 30, 30]


@pytest.mark.parametrize("error", [DataError("too long", where="train:7"), PromptMismatchError("another prompt")], ids=["data", "prompt"])
def test_any_other_failure_is_raised_where_the_learner_waits(make_rig, error: UserError) -> None:
    rig = make_rig(errors={0: [error]})
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    with pytest.raises(type(error)) as caught:
        rig.clock.meeting.wait_for(lambda: False, what="packs", timeout_s=10)
    assert caught.value is error
    assert rig.actor.close(timeout_s=30)
    assert rig.actor.report.state is ActorState.FAILED


def test_a_round_that_another_rank_has_made_is_made_too_whatever_is_queued(make_rig) -> None:
    rig = make_rig(target=2)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.clock.stop_generation(timeout_s=10) == 1
    rig.clock.allow_rounds(below=2)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.clock.meeting.wait_for(lambda: rig.clock.num_rounds == 2, what="the round", timeout_s=30)
    rig.clock.resume_generation(has_synced=True)
    rig.until(ActorState.WAITING)
    assert rig.rounds.made == [(0, 0), (1, 0)]


def test_packs_of_the_version_that_the_learner_waits_for_are_made_whatever_is_queued(make_rig) -> None:
    rig = make_rig(target=2, limit=2, window=3)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    rig.sync()
    assert not rig.actor.wants_round()
    rig.queue.want(1)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.until(ActorState.WAITING)
    assert rig.queue.ready == {1: 2}
    assert rig.queue.counts.evicted == 2


def test_a_round_without_segments_is_told_and_the_next_one_made(make_rig) -> None:
    rig = make_rig(packs_per_round=0)
    rig.rounds.until_one_generates()
    rig.rounds.let_one_end()
    rig.rounds.until_one_generates()
    assert rig.actor.report.has_empty_round


@pytest.mark.parametrize("state", [ActorState.WAITING, ActorState.FENCED, ActorState.QUEUE_FULL, ActorState.BACKING_OFF])
def test_the_end_of_the_run_ends_the_thread_wherever_it_waits(make_rig, state: ActorState) -> None:
    kinds = {
        ActorState.WAITING: {},
        ActorState.FENCED: {"target": 4},
        ActorState.QUEUE_FULL: {"limit": 1},
        ActorState.BACKING_OFF: {"errors": {0: [BackendError("gone")]}},
    }
    rig = make_rig(**kinds[state])
    rig.rounds.until_one_generates()
    if state is ActorState.FENCED:
        rig.clock.fence()
    rig.rounds.let_one_end()
    rig.until(state)
    assert rig.actor.close(timeout_s=30)
    assert rig.actor.report.state is ActorState.ENDED
