"""The window rule and the two gates: pure functions of what the ranks tell."""

from __future__ import annotations

import math

import pytest

from coordexp.rollout.gates import Decision, Gates, InvariantError, RankState, check_states, check_taken
from coordexp.rollout.meeting import WaitTimeoutError
from coordexp.rollout.pace import Pace, Recent
from coordexp.rollout.window import Outlook, WindowRule
from coordexp.types.errors import BackendError, UserError
from coordexp.types.sequences import StepPlan

FAR = Outlook(b_steps=(3,), steps_to_sync=1, sync_every_steps=1, window=2)


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
    assert gates.decide(states, step=7, wants_b=True, outlook=FAR) == Decision(StepPlan(7, "B", num_packs=2, policy_version=2), round_limit=1)
    assert gates.decide(states, step=7, wants_b=False, outlook=FAR) == Decision(StepPlan(7, "A", num_packs=0), round_limit=1)


def test_a_step_without_packs_runs_channel_a_and_says_so() -> None:
    decision = Gates(packs_per_step=2).decide([state(0, {3: 2}), state(1, {3: 1})], step=7, wants_b=True, outlook=FAR)
    assert decision == Decision(StepPlan(7, "A", num_packs=0), is_skipped=True, round_limit=1)


def test_ranks_with_packs_of_different_versions_are_asked_for_the_newest() -> None:
    states = [state(0, {2: 2}), state(1, {3: 2})]
    assert Gates(packs_per_step=2, wait_for_b=True).decide(states, step=7, wants_b=True, outlook=FAR) == Decision(None, wanted=3, round_limit=1)
    assert Gates(packs_per_step=2).decide(states, step=7, wants_b=True, outlook=FAR).wanted == 3


def test_waiting_ends_with_an_error_that_names_the_rank_that_is_late() -> None:
    gates = Gates(packs_per_step=2, wait_for_b=True, wait_timeout_s=60)
    early = [state(0, {3: 2}, waited_s=59), state(1, waited_s=59)]
    assert gates.decide(early, step=7, wants_b=True, outlook=FAR) == Decision(None, round_limit=1)
    with pytest.raises(WaitTimeoutError, match=r"waited 61 s for 2 ready packs .*the last server error: gone\); rank 1: queue of rank 1"):
        gates.decide([state(0, {3: 2}, waited_s=61), state(1, waited_s=61, server_error="gone")], step=7, wants_b=True, outlook=FAR)


def test_too_many_skipped_steps_in_a_row_end_the_run_with_the_last_server_error() -> None:
    gates = Gates(packs_per_step=2, max_skipped_b=3)
    empty, full = [state(server_error="server 8001 is gone")], [state(0, {3: 2})]
    for states in (empty, empty, full, empty, empty):
        gates.decide(states, step=7, wants_b=True, outlook=FAR)
        gates.decide(states, step=7, wants_b=False, outlook=FAR)
    assert gates.num_skipped_in_a_row == 2
    with pytest.raises(BackendError, match=r"3 scheduled Channel B steps in a row had no packs \(the last server error: server 8001 is gone\)"):
        gates.decide(empty, step=7, wants_b=True, outlook=FAR)


def test_with_a_only_the_run_goes_on_for_ever() -> None:
    gates = Gates(packs_per_step=2, max_skipped_b=3, on_starvation="a_only")
    assert all(gates.decide([state()], step=7, wants_b=True, outlook=FAR).is_skipped for _ in range(50))


@pytest.mark.parametrize(
    ("step", "sync_step", "b_steps", "steps_to_sync"),
    [
        pytest.param(5, 4, (2, 6), 3, id="inside"),
        pytest.param(6, 4, (1, 5), 2, id="before-channel-b"),
        pytest.param(7, 4, (4,), 1, id="before-a-sync"),
        pytest.param(8, 8, (3, 7), 4, id="after-a-sync"),
    ],
)
def test_the_outlook_of_a_step(step: int, sync_step: int, b_steps: tuple[int, ...], steps_to_sync: int) -> None:
    """Channel B at every fourth step, a sync before every fourth one."""
    outlook = rule(ratio=0.25, every=4, window=1).outlook(step=step, sync_step=sync_step)
    assert outlook == Outlook(b_steps, steps_to_sync=steps_to_sync, sync_every_steps=4, window=1)
    assert [outlook.syncs_before(distance) for distance in (steps_to_sync - 1, steps_to_sync, steps_to_sync + 4)] == [0, 1, 2]
    assert rule(ratio=0.25, every=4, window=1, num_steps=9).outlook(step=5, sync_step=4).b_steps == (2,)


def outlook(*b_steps: int, to_sync: int = 1, every: int = 1, window: int = 2) -> Outlook:
    return Outlook(b_steps, steps_to_sync=to_sync, sync_every_steps=every, window=window)


def known(round_s: float, ready: dict[int, int] | None = None, *, rank: int = 0, num_rounds: int = 5, **more) -> RankState:
    return state(rank, ready, num_rounds=num_rounds, round_s=round_s, step_s=1.0, **more)


ROUND_LIMITS = [
    pytest.param([state(num_rounds=5)], outlook(1, 2, to_sync=3), 6, id="one-while-durations-are-not-known"),
    pytest.param([known(0.4)], outlook(1, 2, 3), 7, id="two-fit"),
    pytest.param([known(0.4)], outlook(3), 6, id="one-step-is-one-round"),
    pytest.param([known(0.4)], outlook(), 5, id="no-step-could-use-any"),
    pytest.param([known(1.1)], outlook(2, 3), 5, id="none-fits-and-none-is-urgent"),
    pytest.param([known(1.1)], outlook(2, 4, 6, to_sync=4, every=4), 8, id="three-fit-until-the-sync"),
    pytest.param([known(1.1, is_generating=True)], outlook(3), 6, id="one-is-under-way"),
    pytest.param([known(1.1)], outlook(1), 6, id="the-next-step-needs-one"),
    pytest.param([known(2.5)], outlook(1, to_sync=2, every=4), 6, id="the-learner-waits-for-it-before-the-sync"),
    pytest.param([known(2.5)], outlook(3, to_sync=2, every=4), 6, id="the-sync-waits-less-than-the-step-would"),
    pytest.param([known(2.5)], outlook(5, to_sync=2, every=4), 5, id="there-is-time-behind-the-sync"),
    pytest.param([known(1.1, {3: 2})], outlook(1), 5, id="the-next-step-has-packs"),
    pytest.param([known(1.1, {1: 2})], outlook(1), 6, id="they-are-stale-by-then"),
    pytest.param([known(0.4), known(0.6, rank=1, num_rounds=4)], outlook(1, 2), 5, id="the-slowest-decides"),
]


@pytest.mark.parametrize(("states", "ahead", "expected"), ROUND_LIMITS)
def test_the_actors_go_no_further_than_what_ends_before_the_next_sync_or_is_needed(states: list[RankState], ahead: Outlook, expected: int) -> None:
    gates = Gates(packs_per_step=2, wait_for_b=True)
    assert gates.decide(states, step=7, wants_b=False, outlook=ahead).round_limit == expected


def test_a_learner_that_does_not_wait_gets_no_round_that_comes_too_late() -> None:
    gates = Gates(packs_per_step=2, on_starvation="a_only")

    def limit(round_s: float, ahead: Outlook, *, wants_b: bool = False) -> int:
        return gates.decide([known(round_s)], step=7, wants_b=wants_b, outlook=ahead).round_limit

    assert limit(1.1, outlook(1, to_sync=4, every=4, window=0)) == 5
    assert limit(0.9, outlook(1, to_sync=4, every=4, window=0)) == 6
    # a sync waits for it, and the window holds it
    assert limit(1.1, outlook(1, window=1)) == 6
    # only to measure again, after many steps in vain
    assert [limit(1.1, outlook(1, to_sync=4, every=4, window=0), wants_b=True) for _ in range(5)] == [5, 5, 5, 6, 5]


def test_while_the_learner_waits_one_more_round_may_begin() -> None:
    gates = Gates(packs_per_step=2, wait_for_b=True)
    states = [state(0, {3: 2}, num_rounds=6), state(1, num_rounds=5, is_generating=True, round_s=9.0, step_s=1.0)]
    assert gates.decide(states, step=7, wants_b=True, outlook=FAR).round_limit == 7


def test_the_longest_of_the_last_durations_counts() -> None:
    recent = Recent()
    assert recent.longest_s is None
    for seconds in (9.0, 1.0, 3.0, 2.0, 1.0):
        recent.add(seconds)
    assert recent.longest_s == 3.0
    pace = Pace.of([(0.5, 1.0), (0.7, 1.2)])
    assert pace.rounds_before(2) == 2
    assert Pace.of([(0.0, 1.0)]).rounds_before(3) == 3
    assert Pace.of([(None, 1.0)]).rounds_before(3) == 1


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
