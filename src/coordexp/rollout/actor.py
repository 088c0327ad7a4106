"""The actor of a rank: a thread that makes rollouts beside the training, round by round, and queues the packs that they become.

consumes: rounds of samples, in order. produces: ready packs of one version each. waits for: room in the window, the end of a weight sync, room in the queue,
and after server trouble for its next attempt. unblocked by: the learner's steps and syncs, and `close`.

Server trouble (`BackendError`) is counted and kept, and the same round is tried again, later and later. Anything else, other prompts than those of the
training too, ends the thread and is raised where the learner waits next.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Final, Protocol

from coordexp.generation.prompt_ids import PromptMismatchError
from coordexp.rollout.meeting import ClosedError
from coordexp.rollout.pace import Recent
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.ready_queue import ReadyPack, ReadyQueue
from coordexp.rollout.window import WindowRule
from coordexp.types.errors import BackendError

_LONG_S: Final = 3600.0
"""The actor waits as long as the learner needs; a wait is begun anew after this."""


class ActorState(IntEnum):
    """What the actor does; the number is `stage2_ab/async/prefetch_state`."""

    NOT_STARTED = 0
    WAITING = 1
    """The packs that are ready fill what the window can use."""
    PREPARING = 2
    """Encodes prompts and images."""
    FENCED = 3
    """Its prompts wait for the end of a weight sync."""
    GENERATING = 4
    """Answers are made, read and matched."""
    PACKING = 5
    QUEUE_FULL = 6
    """A pack waits for room."""
    BACKING_OFF = 7
    """The servers failed: the next attempt is due later."""
    ENDED = 8
    FAILED = 9


class Round(Protocol):
    """The samples of one round, encoded."""

    @property
    def num_requests(self) -> int: ...

    def roll(self, version: int) -> None:
        """Generate and read the answers.

        Raises:
            BackendError: the servers cannot.
        """
        ...

    def packs(self) -> Sequence[ReadyPack]:
        """What is trained on, all of the version that `roll` was given."""
        ...


class RoundSource(Protocol):
    """Round n is planned for the n-th Channel B step; samples and seeds depend on n alone."""

    def begin(self, number: int) -> Round: ...


@dataclass(frozen=True, slots=True)
class BackOff:
    """Seconds until the next attempt: doubled with each failure in a row. Example: `BackOff(first_s=1, most_s=30).delay_s(3) == 4`"""

    first_s: float = 1.0
    most_s: float = 30.0

    def delay_s(self, num_failures: int) -> float:
        return min(self.most_s, self.first_s * 2.0 ** min(num_failures - 1, 30))


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What the telemetry shows."""

    state: ActorState
    num_rounds: int
    """Rounds that were begun, repeated ones as often as they were."""
    num_failures: int
    """Rounds that ended in server trouble."""
    has_empty_round: bool
    """The last round left nothing to pack."""
    num_requests: int
    """Under way."""
    last_progress_s_ago: float
    server_error: BackendError | None
    """Of the last attempt; None: it went well."""


class Actor:
    """Runs one thread. `start` and `close` belong to the learner, `report` and `is_stuck` to everyone.

    Example:
        actor = Actor(rounds, clock=clock, queue=queue, rule=rule)
        actor.start()
        ...
        actor.close(timeout_s=10)
    """

    def __init__(self, rounds: RoundSource, *, clock: PolicyClock, queue: ReadyQueue, rule: WindowRule, back_off: BackOff | None = None) -> None:
        self._rounds, self._clock, self._queue, self._rule = rounds, clock, queue, rule
        self._meeting = clock.meeting
        self._back_off = back_off or BackOff()
        self._state = ActorState.NOT_STARTED
        self._num_rounds = self._num_failures = self._num_requests = 0
        self._has_empty_round = False
        self._failures_in_a_row = 0
        self._server_error: BackendError | None = None
        self._progress_at = self._meeting.timer.now()
        self.durations = Recent()
        """Of rounds, from their samples to their packs."""
        self._thread = threading.Thread(target=self._run, name="actor", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def close(self, *, timeout_s: float) -> bool:
        """End all waits and the thread; returns False when a generation that cannot be interrupted still runs after this time. Twice is harmless."""
        self._meeting.close()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def report(self) -> ActorReport:
        with self._meeting.lock:
            return ActorReport(
                state=self._state,
                num_rounds=self._num_rounds,
                num_failures=self._num_failures,
                has_empty_round=self._has_empty_round,
                num_requests=self._num_requests,
                last_progress_s_ago=self._meeting.timer.now() - self._progress_at,
                server_error=self._server_error,
            )

    @property
    def is_stuck(self) -> bool:
        """It cannot generate what it was ordered to: the servers fail, or a pack waits for room."""
        return self._state in (ActorState.BACKING_OFF, ActorState.QUEUE_FULL)

    def wants_round(self) -> bool:
        """Whether the next round should begin: the window has room and the pace allows it, the learner waits for packs, or another rank has made this round."""
        clock, queue = self._clock, self._queue
        ready = queue.ready
        if clock.num_rounds < clock.ordered_rounds:
            return True
        if queue.wanted is not None and ready.get(clock.version, 0) < self._rule.packs_per_step:
            return True
        return clock.num_rounds < clock.round_limit and self._rule.has_room(ready, version=clock.version, step=clock.step, sync_step=clock.sync_step)

    def _run(self) -> None:
        with _EndOfThread(self):
            while True:
                self._enter(ActorState.WAITING)
                while not self._meeting.wait_up_to(self.wants_round, timeout_s=_LONG_S):
                    pass
                self.run_round()

    def run_round(self) -> None:
        """One attempt at the next round; on the actor's thread.

        Raises:
            ClosedError: the run ends.
        """
        self._enter(ActorState.PREPARING, begins_round=True)
        number, start = self._clock.num_rounds, self._meeting.timer.now()
        current = self._rounds.begin(number)
        encoded = self._meeting.timer.now()
        self._enter(ActorState.FENCED)
        try:
            with self._clock.generation(number, timeout_s=_LONG_S) as version:
                self._enter(ActorState.GENERATING, num_requests=current.num_requests)
                begun = self._meeting.timer.now()
                current.roll(version)
        except PromptMismatchError:
            raise
        except BackendError as error:
            self._wait_after(error)
            return
        with self._meeting.changing():
            self._server_error, self._failures_in_a_row = None, 0
            self.durations.add(encoded - start + self._meeting.timer.now() - begun)
        self._enter(ActorState.PACKING)
        packs = current.packs()
        with self._meeting.changing():
            self._has_empty_round = not packs
        for pack in packs:
            self._enter(ActorState.QUEUE_FULL if self._queue.counts.queued >= self._queue.limit else ActorState.PACKING)
            self._queue.put(pack, timeout_s=_LONG_S)

    def _wait_after(self, error: BackendError) -> None:
        """Until the next attempt is due, or new weights have reached the servers."""
        with self._meeting.changing():
            self._server_error = error
            self._num_failures += 1
            self._failures_in_a_row += 1
        self._enter(ActorState.BACKING_OFF)
        seen = self._clock.version
        self._meeting.wait_up_to(lambda: self._clock.version != seen, timeout_s=self._back_off.delay_s(self._failures_in_a_row))

    def _enter(self, state: ActorState, *, num_requests: int = 0, begins_round: bool = False) -> None:
        with self._meeting.changing():
            if state not in (ActorState.WAITING, ActorState.FENCED, ActorState.QUEUE_FULL, ActorState.BACKING_OFF):
                self._progress_at = self._meeting.timer.now()
            self._state, self._num_requests = state, num_requests
            self._num_rounds += begins_round

    def end(self, error: BaseException | None) -> None:
        """On the actor's thread, at its end."""
        is_planned = error is None or isinstance(error, ClosedError)
        self._enter(ActorState.ENDED if is_planned else ActorState.FAILED)
        if error is not None and not is_planned:
            self._meeting.fail(error)


class _EndOfThread:
    """Hands whatever ended the thread to the actor, so that the learner raises it."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        self._actor.end(error)
        return True
