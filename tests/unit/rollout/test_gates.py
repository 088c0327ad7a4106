"""The window rule and the two gates: pure functions of what the ranks tell."""

from __future__ import annotations

import math

import pytest

from coordexp.rollout.gates import Decision, Gates, InvariantError, RankState, check_states, check_taken
from coordexp.rollout.meeting import WaitTimeoutError
from coordexp.rollout.window import WindowRule
from coordexp.types.errors import BackendError, UserError
from coordexp.types.sequences import StepPlan


def state(rank: int = 0, ready: dict[int, int] | None = None, *, step: int = 7, version: int = 3, **more) -> RankState:
    return RankState(rank=rank, step=step, version=version, ready=ready or {}, queue=f"queue of rank {rank}", **more)


def rule(*, ratio: float = 1.0, window: int = 2, every: int = 1, target: int = 100, num_steps: int | None = None) -> WindowRule:
    return WindowRule(lambda step: math.floor(step * ratio), packs_per_step=2, target=target, window=window, sync_every_steps=every, num_steps=num_steps)


@pytest.mark.parametrize(
    ("made", "lag", "step", "sync_step", "expected"),
    [
        pytest.param(rule(), 0, 5, 5, 6, id="synced-now"),
        pytest.param(rule(), 0, 6, 5, 4, id="step-decided"),
        pytest.param(rule(), 2, 5, 5, 2, id="last-chance"),
        pytest.param(rule(), 3, 5, 5, 0, id="stale"),
        pytest.param(rule(window=0), 0, 6, 5, 0, id="window-0-waits-for-the-sync"),
        pytest.param(rule(window=0, every=4), 0, 5, 4, 6, id="until-the-next-sync"),
        pytest.param(rule(window=1, every=4), 0, 6, 6, 12, id="sync-out-of-turn"),
        pytest.param(rule(ratio=0.25), 0, 0, 0, 0, id="channel-b-is-too-far"),
        pytest.param(rule(ratio=0.25), 0, 1, 1, 2, id="channel-b-is-near"),
        pytest.param(rule(num_steps=6), 0, 5, 5, 2, id="training-ends"),
        pytest.param(rule(num_steps=6), 0, 6, 6, 0, id="training-is-over"),
    ],
)
def test_what_the_window_can_use(made: WindowRule, lag: int, step: int, sync_step: int, expected: int) -> None:
    assert made.usable(lag, step=step, sync_step=sync_step) == expected


def test_a_round_begins_only_when_neither_it_nor_older_packs_become_stale() -> None:
    made = rule(target=4)
    where = {"version": 3, "step": 5, "sync_step": 5}
    assert made.has_room({}, **where)
    assert made.has_room({3: 2}, **where)
    assert not made.has_room({3: 4}, **where)
    # one step can still use packs that are two versions old, and there are enough of them
    assert not made.has_room({1: 2}, **where)
    assert made.has_room({1: 1}, **where)


def test_channel_b_runs_with_the_newest_version_of_which_all_ranks_have_enough() -> None:
    gates = Gates(packs_per_step=2)
    states = [state(0, {1: 2, 2: 2, 3: 2}), state(1, {1: 4, 2: 2, 3: 1})]
    assert gates.decide(states, step=7, wants_b=True) == Decision(StepPlan(7, "B", num_packs=2, policy_version=2))
    assert gates.decide(states, step=7, wants_b=False) == Decision(StepPlan(7, "A", num_packs=0))


def test_a_step_without_packs_runs_channel_a_and_says_so() -> None:
    decision = Gates(packs_per_step=2).decide([state(0, {3: 2}), state(1, {3: 1})], step=7, wants_b=True)
    assert decision == Decision(StepPlan(7, "A", num_packs=0), is_skipped=True)


def test_ranks_with_packs_of_different_versions_are_asked_for_the_newest() -> None:
    states = [state(0, {2: 2}), state(1, {3: 2})]
    assert Gates(packs_per_step=2, wait_for_b=True).decide(states, step=7, wants_b=True) == Decision(None, wanted=3)
    assert Gates(packs_per_step=2).decide(states, step=7, wants_b=True).wanted == 3


def test_waiting_ends_with_an_error_that_names_the_rank_that_is_late() -> None:
    gates = Gates(packs_per_step=2, wait_for_b=True, wait_timeout_s=60)
    early = [state(0, {3: 2}, waited_s=59), state(1, waited_s=59)]
    assert gates.decide(early, step=7, wants_b=True) == Decision(None)
    with pytest.raises(WaitTimeoutError, match=r"waited 61 s for 2 ready packs .*the last server error: gone\); rank 1: queue of rank 1"):
        gates.decide([state(0, {3: 2}, waited_s=61), state(1, waited_s=61, server_error="gone")], step=7, wants_b=True)


def test_too_many_skipped_steps_in_a_row_end_the_run_with_the_last_server_error() -> None:
    gates = Gates(packs_per_step=2, max_skipped_b=3)
    empty, full = [state(server_error="server 8001 is gone")], [state(0, {3: 2})]
    for states in (empty, empty, full, empty, empty):
        gates.decide(states, step=7, wants_b=True)
        gates.decide(states, step=7, wants_b=False)
    assert gates.num_skipped_in_a_row == 2
    with pytest.raises(BackendError, match=r"3 scheduled Channel B steps in a row had no packs \(the last server error: server 8001 is gone\)"):
        gates.decide(empty, step=7, wants_b=True)


def test_with_a_only_the_run_goes_on_for_ever() -> None:
    gates = Gates(packs_per_step=2, max_skipped_b=3, on_starvation="a_only")
    assert all(gates.decide([state()], step=7, wants_b=True).is_skipped for _ in range(50))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        pytest.param(state(1, step=8), "rank 1 is at step 8 with policy version 3, rank 0 at step 7 with 3", id="step"),
        pytest.param(state(1, version=2), "rank 1 is at step 7 with policy version 2, rank 0 at step 7 with 3", id="version"),
        pytest.param(state(1, {4: 1}), "rank 1 holds packs of a version that does not exist before step 7", id="negative-lag"),
    ],
)
def test_ranks_that_disagree_are_an_error(other: RankState, said: str) -> None:
    with pytest.raises(InvariantError, match=f"{said}; queue of rank 1"):
        check_states([state(), other], step=7)


def test_a_failed_actor_is_named_on_every_rank() -> None:
    with pytest.raises(UserError, match="the actor of rank 1 failed before step 7: KeyError: 3"):
        check_states([state(), state(1, failure="KeyError: 3")], step=7)


def test_what_was_taken_is_what_was_planned() -> None:
    plan = StepPlan(7, "B", num_packs=2, policy_version=2)
    assert check_taken(plan, [2, 2], version=3, window=1, queue="queue") == 1
    for versions, version, said in (
        ([2], 3, "1 packs were taken"),
        ([2, 3], 3, r"of the versions \[2, 3\]"),
        ([2, 2], 4, "are 2 versions old, and the window is 1"),
    ):
        with pytest.raises(InvariantError, match=rf"step 7, channel B, planned 2 packs of version 2: .*{said}.*; queue"):
            check_taken(plan, versions, version=version, window=1, queue="queue")
    with pytest.raises(InvariantError, match="-1 versions old"):
        check_taken(plan, [2, 2], version=1, window=1, queue="queue")
