"""The meeting of two threads, and the clock with its fence."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from coordexp.rollout.meeting import ClosedError, Meeting, WaitTimeoutError
from coordexp.rollout.policy_clock import PolicyClock

from .timers import JumpingTimer, WatchedTimer


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def generate(clock: PolicyClock, number: int) -> int:
    with clock.generation(number, timeout_s=10) as version:
        return version


def test_a_wait_ends_with_what_it_waits_for(pool: ThreadPoolExecutor, timer: WatchedTimer) -> None:
    meeting, jobs = Meeting(timer), [1]
    waiter = pool.submit(meeting.wait_for, lambda: not jobs, what="an empty list", timeout_s=10)
    timer.until_somebody_waits()
    with meeting.changing():
        jobs.clear()
    waiter.result(10)


def test_a_wait_that_is_too_long_says_what_it_waited_for() -> None:
    timer = JumpingTimer()
    meeting = Meeting(timer)
    with pytest.raises(WaitTimeoutError, match=r"^waited 90 s for a miracle$"):
        meeting.wait_for(lambda: False, what="a miracle", timeout_s=90)
    assert timer.seconds == 90
    assert not meeting.wait_up_to(lambda: False, timeout_s=5)
    with pytest.raises(WaitTimeoutError, match="for 3 wonders"):
        meeting.wait_for(lambda: False, what=lambda: f"{1 + 2} wonders", timeout_s=1)


def test_closing_ends_every_wait_and_every_later_one(pool: ThreadPoolExecutor, timer: WatchedTimer) -> None:
    meeting = Meeting(timer)
    waiters = [pool.submit(meeting.wait_for, lambda: False, what="nothing", timeout_s=10) for _ in range(3)]
    for _ in waiters:
        timer.until_somebody_waits()
    meeting.close()
    meeting.close()
    for waiter in waiters:
        with pytest.raises(ClosedError):
            waiter.result(10)
    with pytest.raises(ClosedError):
        meeting.wait_for(lambda: True, what="something that is there", timeout_s=10)


def test_the_first_failure_of_one_side_is_raised_where_the_other_waits(pool: ThreadPoolExecutor, timer: WatchedTimer) -> None:
    meeting, first = Meeting(timer), ZeroDivisionError("first")
    waiter = pool.submit(meeting.wait_for, lambda: False, what="nothing", timeout_s=10)
    timer.until_somebody_waits()
    meeting.fail(first)
    meeting.fail(KeyError("second"))
    assert waiter.exception(10) is first
    with pytest.raises(ZeroDivisionError):
        meeting.check()
    assert meeting.wait_up_to(lambda: False, timeout_s=10, raises_failure=False)


def test_the_version_goes_up_with_each_completed_sync_alone(clock: PolicyClock) -> None:
    assert clock.version == 0
    for has_synced, expected in ((True, 1), (False, 1), (True, 2)):
        clock.stop_generation(timeout_s=10)
        assert clock.is_fenced
        assert clock.resume_generation(has_synced=has_synced) == expected == clock.version
    assert generate(clock, 0) == 2
    assert clock.num_rounds == 1


def test_a_sync_waits_for_the_generation_under_way_and_the_next_one_for_the_sync(pool: ThreadPoolExecutor, timer: WatchedTimer, clock: PolicyClock) -> None:
    with clock.generation(0, timeout_s=10) as version:
        stopping = pool.submit(clock.stop_generation, timeout_s=10)
        timer.until_somebody_waits()
        assert clock.is_generating
        assert version == 0
    assert stopping.result(10) == 1
    late = pool.submit(generate, clock, 1)
    timer.until_somebody_waits()
    clock.resume_generation(has_synced=True)
    assert late.result(10) == 1


def test_rounds_that_another_rank_has_made_pass_the_fence_with_the_old_version(pool: ThreadPoolExecutor, timer: WatchedTimer, clock: PolicyClock) -> None:
    clock.stop_generation(timeout_s=10)
    clock.allow_rounds(below=2)
    assert (clock.ordered_rounds, generate(clock, 0), generate(clock, 1)) == (2, 0, 0)
    late = pool.submit(generate, clock, 2)
    timer.until_somebody_waits()
    clock.resume_generation(has_synced=True)
    assert late.result(10) == 1


def test_rounds_that_were_given_up_wait_for_the_sync_after_all(pool: ThreadPoolExecutor, timer: WatchedTimer, clock: PolicyClock) -> None:
    clock.stop_generation(timeout_s=10)
    clock.allow_rounds(below=2)
    clock.revoke_rounds()
    late = pool.submit(generate, clock, 0)
    timer.until_somebody_waits()
    clock.resume_generation(has_synced=True)
    assert late.result(10) == 1


def test_a_generation_that_fails_opens_the_fence_and_is_not_counted(clock: PolicyClock) -> None:
    with pytest.raises(ZeroDivisionError), clock.generation(0, timeout_s=10):
        raise ZeroDivisionError
    assert (clock.num_rounds, clock.is_generating) == (0, False)
    assert clock.stop_generation(timeout_s=10) == 0


def test_a_generation_that_does_not_end_is_an_error_that_says_so() -> None:
    clock = PolicyClock(Meeting(JumpingTimer()))
    with clock.generation(0, timeout_s=10), pytest.raises(WaitTimeoutError, match="waited 7 s for the rollouts that are under way before a weight sync"):
        clock.stop_generation(timeout_s=7)


def test_a_fence_that_stays_closed_is_an_error_that_says_so() -> None:
    clock = PolicyClock(Meeting(JumpingTimer()))
    clock.stop_generation(timeout_s=1)
    with pytest.raises(WaitTimeoutError, match="waited 7 s for the end of a weight sync"), clock.generation(0, timeout_s=7):
        pass


@pytest.mark.parametrize("side", ["stop_generation", "generation"])
def test_both_waits_at_the_fence_end_when_the_run_ends(pool: ThreadPoolExecutor, timer: WatchedTimer, clock: PolicyClock, side: str) -> None:
    if side == "generation":
        clock.stop_generation(timeout_s=10)
        waiter = pool.submit(generate, clock, 0)
        timer.until_somebody_waits()
        clock.meeting.close()
    else:
        with clock.generation(0, timeout_s=10):
            waiter = pool.submit(clock.stop_generation, timeout_s=10)
            timer.until_somebody_waits()
            clock.meeting.close()
    with pytest.raises(ClosedError):
        waiter.result(10)


def test_steps_never_go_back(clock: PolicyClock) -> None:
    clock.advance(step=5, sync_step=4)
    clock.advance(step=3, sync_step=2)
    assert (clock.step, clock.sync_step) == (5, 4)
