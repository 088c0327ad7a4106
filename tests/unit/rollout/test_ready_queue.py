"""The queue between actor and learner: every pack in exactly one place, whatever happens in which order."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordexp.rollout.meeting import ClosedError, Meeting, WaitTimeoutError
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.ready_queue import Admission, QueueCounts, ReadyPack, ReadyQueue
from coordexp.types.sequences import Pack

from .timers import JumpingTimer, WatchedTimer


def pack_of(version: int, number: int = 0) -> ReadyPack:
    return ReadyPack(Pack(segments=()), version=version, round=number)


def sync(clock: PolicyClock, times: int = 1) -> None:
    for _ in range(times):
        clock.stop_generation(timeout_s=1)
        clock.resume_generation(has_synced=True)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def test_packs_of_a_version_are_taken_in_order_of_arrival(clock: PolicyClock) -> None:
    queue = ReadyQueue(6, window=2, clock=clock)
    for number in range(3):
        assert queue.put(pack_of(0, number), timeout_s=1) is Admission.QUEUED
    sync(clock)
    queue.put(pack_of(1, 3), timeout_s=1)
    assert queue.ready == {0: 3, 1: 1}
    queue.reserve(version=0, count=2)
    assert queue.ready == {0: 1, 1: 1}
    assert queue.counts == QueueCounts(produced=4, queued=2, reserved=2)
    assert [taken.round for taken in queue.take()] == [0, 1]
    assert queue.counts == QueueCounts(produced=4, queued=2, consumed=2)


def test_packs_that_are_too_old_are_dropped_and_counted_also_at_birth(clock: PolicyClock) -> None:
    queue = ReadyQueue(6, window=1, clock=clock)
    queue.put(pack_of(0), timeout_s=1)
    sync(clock)
    assert queue.drop_stale() == 0
    sync(clock)
    assert queue.ready == {}
    assert queue.drop_stale() == 1
    assert queue.put(pack_of(0), timeout_s=1) is Admission.STALE
    assert queue.counts == QueueCounts(produced=2, stale=2)


def test_a_full_queue_makes_the_actor_wait_until_a_step_takes_packs(clock: PolicyClock, timer: WatchedTimer, pool: ThreadPoolExecutor) -> None:
    queue = ReadyQueue(2, window=2, clock=clock)
    queue.put(pack_of(0), timeout_s=1)
    queue.put(pack_of(0), timeout_s=1)
    sync(clock)
    waiting = pool.submit(queue.put, pack_of(1), timeout_s=1)
    timer.until_somebody_waits()
    assert queue.counts == QueueCounts(produced=2, queued=2)
    queue.reserve(version=0, count=1)
    assert waiting.result(10) is Admission.QUEUED
    assert queue.ready == {0: 1, 1: 1}


def test_packs_that_become_stale_make_room(clock: PolicyClock, timer: WatchedTimer, pool: ThreadPoolExecutor) -> None:
    queue = ReadyQueue(1, window=0, clock=clock)
    queue.put(pack_of(0), timeout_s=1)
    waiting = pool.submit(queue.put, pack_of(0), timeout_s=1)
    timer.until_somebody_waits()
    sync(clock)
    assert waiting.result(10) is Admission.STALE
    assert queue.counts == QueueCounts(produced=2, stale=2)


def test_the_oldest_is_evicted_only_for_a_newer_version_that_the_learner_waits_for(clock: PolicyClock) -> None:
    queue = ReadyQueue(2, window=3, clock=clock)
    queue.offer(pack_of(0, 0))
    sync(clock)
    queue.offer(pack_of(1, 1))
    sync(clock)
    assert queue.offer(pack_of(2)) is Admission.FULL
    queue.want(2)
    assert queue.offer(pack_of(1)) is Admission.FULL
    assert queue.offer(pack_of(2, 2)) is Admission.QUEUED
    assert queue.ready == {1: 1, 2: 1}
    assert queue.offer(pack_of(2, 3)) is Admission.QUEUED
    assert queue.offer(pack_of(2)) is Admission.FULL
    assert queue.counts == QueueCounts(produced=4, queued=2, evicted=2)
    assert queue.counts.lost == 2


def test_what_cannot_be_reserved_or_queued_is_an_error_that_shows_the_queue(clock: PolicyClock) -> None:
    queue = ReadyQueue(4, window=2, clock=clock)
    queue.offer(pack_of(0))
    with pytest.raises(ValueError, match=r"2 packs of version 0 were counted, and there are 1: queue with 1 of at most 4 packs \(fresh: 1 of version 0\)"):
        queue.reserve(version=0, count=2)
    queue.reserve(version=0, count=1)
    with pytest.raises(ValueError, match="1 packs are reserved already"):
        queue.reserve(version=0, count=1)
    with pytest.raises(ValueError, match="a pack of version 1, and the newest policy is 0"):
        queue.offer(pack_of(1))
    with pytest.raises(ValueError, match="limit of at least 1"):
        ReadyQueue(0, window=0, clock=clock)


def test_no_room_for_too_long_is_an_error_that_shows_the_queue() -> None:
    queue = ReadyQueue(1, window=2, clock=PolicyClock(Meeting(JumpingTimer())))
    queue.offer(pack_of(0))
    with pytest.raises(WaitTimeoutError, match="waited 5 s for room in queue with 1 of at most 1 packs"):
        queue.put(pack_of(0), timeout_s=5)


def test_a_pack_that_waits_for_room_when_the_run_ends_is_abandoned(clock: PolicyClock, timer: WatchedTimer, pool: ThreadPoolExecutor) -> None:
    queue = ReadyQueue(1, window=2, clock=clock)
    queue.offer(pack_of(0))
    waiting = pool.submit(queue.put, pack_of(0), timeout_s=1)
    timer.until_somebody_waits()
    clock.meeting.close()
    with pytest.raises(ClosedError):
        waiting.result(10)
    assert queue.counts == QueueCounts(produced=2, queued=1, abandoned=1)
    assert queue.counts.is_complete


def test_a_pack_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(pack_of(3, 7))) == pack_of(3, 7)


class QueueMachine(RuleBasedStateMachine):
    """Any order of what actor and learner do, against a list that is kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = PolicyClock(Meeting(JumpingTimer()))
        self.queue = ReadyQueue(4, window=2, clock=self.clock)
        self.number = 0
        self.where: dict[int, str] = {}
        """Place of each pack by its number."""
        self.versions: dict[int, int] = {}

    def numbers(self, place: str, version: int | None = None) -> list[int]:
        return [number for number, at in self.where.items() if at == place and version in (None, self.versions[number])]

    def age(self) -> None:
        """What is queued and too old is stale."""
        for number in self.numbers("queued"):
            if self.versions[number] < self.clock.version - self.queue.window:
                self.where[number] = "stale"

    @rule(lag=st.integers(0, 4))
    def offer(self, lag: int) -> None:
        version, number = max(0, self.clock.version - lag), self.number
        result = self.queue.offer(pack_of(version, number))
        self.age()
        if result is not Admission.FULL:
            self.number += 1
            self.versions[number] = version
        if result is Admission.STALE:
            assert version < self.clock.version - 2
            self.where[number] = "stale"
        elif result is Admission.QUEUED:
            if len(self.numbers("queued")) == 4:
                oldest = min(self.numbers("queued"), key=lambda item: (self.versions[item], item))
                assert self.versions[oldest] < version
                assert self.queue.wanted is not None
                self.where[oldest] = "evicted"
            self.where[number] = "queued"
        else:
            assert len(self.numbers("queued")) == 4

    @rule(has_synced=st.booleans())
    def sync(self, has_synced: bool) -> None:
        self.clock.stop_generation(timeout_s=1)
        self.clock.resume_generation(has_synced=has_synced)
        self.queue.drop_stale()
        self.age()

    @rule(is_wanted=st.booleans())
    def want(self, is_wanted: bool) -> None:
        self.queue.want(self.clock.version if is_wanted else None)

    @precondition(lambda self: self.queue.ready and not self.numbers("reserved"))
    @rule(data=st.data())
    def reserve(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.queue.ready)))
        count = data.draw(st.integers(1, self.queue.ready[version]))
        chosen = self.numbers("queued", version)[:count]
        self.queue.reserve(version=version, count=count)
        self.where.update(dict.fromkeys(chosen, "reserved"))

    @rule()
    def take(self) -> None:
        taken = [pack.round for pack in self.queue.take()]
        assert sorted(taken) == sorted(self.numbers("reserved"))
        assert all(self.versions[number] >= 0 for number in taken)
        self.where.update(dict.fromkeys(taken, "consumed"))

    @invariant()
    def every_pack_is_in_exactly_one_place(self) -> None:
        counts = self.queue.counts
        assert counts.is_complete
        assert counts.produced == self.number
        for place in ("queued", "reserved", "consumed", "stale", "evicted"):
            assert getattr(counts, place) == len(self.numbers(place)), place
        assert counts.queued <= 4


TestQueueMachine = QueueMachine.TestCase
