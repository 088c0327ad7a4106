"""Which weights the servers hold, at which step the learner is, and the fence that keeps generation and weight syncs apart.

One writer, the learner. The version goes up by one with each completed sync, and never during a generation: no request straddles a sync. All ranks make a
round of rollouts with the same version: before a sync, a rank that is behind makes the rounds that another one has begun.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from coordexp.rollout.meeting import Meeting


class PolicyClock:
    """Version, step and fence.

    Learner: `fence`, `stop_generation`, `allow_rounds`, `revoke_rounds`, `resume_generation`, `advance`. Waits in the second for what is under way; unblocked
    by its end.
    Actor: `generation`. Waits while the fence is closed to its round; unblocked by `resume_generation`, `allow_rounds` and the end of the run.
    Everyone: the properties.

    Example:
        clock = PolicyClock(Meeting())
        clock.stop_generation(timeout_s=60)
        ...                                        # weights go to the servers
        clock.resume_generation(has_synced=True)
        clock.version == 1
    """

    def __init__(self, meeting: Meeting, *, first_round: int = 0) -> None:
        self.meeting = meeting
        self._version = 0
        self._step = 0
        self._sync_step = 0
        self._is_fenced = False
        self._allowed_below = first_round
        self._num_under_way = 0
        self._num_rounds = first_round
        self._round_limit = first_round

    @property
    def version(self) -> int:
        """Of the weights that the servers hold; 0: what they were started with."""
        return self._version

    @property
    def step(self) -> int:
        """The first optimizer step whose channel is not decided yet."""
        return self._step

    @property
    def sync_step(self) -> int:
        """The step before which weights were last sent, or would have been: the next regular sync is counted from here."""
        return self._sync_step

    @property
    def num_rounds(self) -> int:
        """Rounds of rollouts that are generated: the number of the next one."""
        return self._num_rounds

    @property
    def is_fenced(self) -> bool:
        """Nothing is generated: weights are under way, or an evaluation runs."""
        return self._is_fenced

    @property
    def is_generating(self) -> bool:
        return self._num_under_way > 0

    @property
    def ordered_rounds(self) -> int:
        """Rounds that are to be generated whatever the queue holds: another rank has generated them."""
        return self._allowed_below

    @property
    def round_limit(self) -> int:
        """Rounds of lower numbers may begin; how far the learner lets the actors of all ranks go until its next step."""
        return self._round_limit

    @contextmanager
    def generation(self, number: int, *, timeout_s: float) -> Generator[int]:
        """Generate round `number`: yields the version that it is made with, which stays until the block ends. The actor's.

        Raises:
            WaitTimeoutError: the fence stayed closed.
            ClosedError: the run ends.
        """
        meeting = self.meeting
        with meeting.changing():
            meeting.wait_for(lambda: self.is_open(number), what="the end of a weight sync", timeout_s=timeout_s)
            self._num_under_way += 1
            version = self._version
        try:
            yield version
            with meeting.changing():
                assert number == self._num_rounds, f"round {number} was generated after {self._num_rounds}"
                self._num_rounds = number + 1
        finally:
            with meeting.changing():
                self._num_under_way -= 1

    def is_open(self, number: int) -> bool:
        """Whether round `number` may be generated now."""
        return not self._is_fenced or number < self._allowed_below

    def fence(self) -> None:
        """Let nothing new begin; `stop_generation` also waits for what is under way. The learner's."""
        with self.meeting.changing():
            self._is_fenced = True

    def stop_generation(self, *, timeout_s: float) -> int:
        """Close the fence and wait until nothing is under way. The learner's.

        Returns:
            Rounds that are generated on this rank; no other one begins.

        Raises:
            WaitTimeoutError: a generation did not end.
            ClosedError: the run ends.
            BaseException: what the actor failed with.
        """
        self.fence()
        self.meeting.wait_for(lambda: self._num_under_way == 0, what="the rollouts that are under way before a weight sync", timeout_s=timeout_s)
        return self._num_rounds

    def allow_rounds(self, *, below: int) -> None:
        """Let the actor generate the rounds before `below` although the fence is closed: another rank has generated them with this version. The learner's."""
        with self.meeting.changing():
            self._allowed_below = below

    def revoke_rounds(self) -> None:
        """No longer wait for such rounds: the fence is closed to them, too. The learner's."""
        with self.meeting.changing():
            self._allowed_below = self._num_rounds

    def resume_generation(self, *, has_synced: bool) -> int:
        """Open the fence; with `has_synced` every server has new weights. The learner's.

        Returns:
            The version from now on.
        """
        with self.meeting.changing():
            assert self._is_fenced, "weights were sent without the fence"
            assert self._num_under_way == 0, "a generation straddles a weight sync"
            self._version += has_synced
            self._is_fenced = False
        return self._version

    def advance(self, *, step: int | None = None, sync_step: int | None = None, round_limit: int | None = None) -> None:
        """Tell where the learner is, which never goes back, and how far the actor may go. The learner's."""
        with self.meeting.changing():
            self._round_limit = self._round_limit if round_limit is None else round_limit
            self._step = max(self._step, self._step if step is None else step)
            self._sync_step = max(self._sync_step, self._sync_step if sync_step is None else sync_step)
