"""Packs that are ready to train on, between the actor and the learner of one rank.

A pack is in exactly one place: queued, reserved (the step that takes it is decided), consumed, stale (older than the window), evicted (the oldest, for packs
of newer versions), or abandoned (the run ended while it waited for room). `QueueCounts.is_complete` says so: produced = the sum of all of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from coordexp.rollout.meeting import ClosedError
from coordexp.rollout.policy_clock import PolicyClock
from coordexp.rollout.report import RolloutReport
from coordexp.types.sequences import Pack


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What a round says about itself."""

    report: RolloutReport
    num_skipped: int
    """Records that could not be read."""
    pack_s: float
    """Seconds of packing."""


@dataclass(frozen=True, slots=True)
class ReadyPack:
    """One forward and backward of Channel B. Can be pickled, so that another process could make it.

    Example: `ReadyPack(pack, version=12, round=7)`
    """

    pack: Pack
    version: int
    """Of the weights that made every answer in it."""
    round: int
    """Number of the round of rollouts that it comes from."""
    facts: RoundFacts | None = None
    """Of the whole round, with its first pack; logged by the step that takes it."""


class Admission(StrEnum):
    """What became of a pack that was offered."""

    QUEUED = "queued"
    STALE = "stale"
    """It is older than the window, and dropped."""
    FULL = "full"
    """There is no room: offer it again."""


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Packs since the start, by where they are."""

    produced: int = 0
    queued: int = 0
    reserved: int = 0
    consumed: int = 0
    stale: int = 0
    evicted: int = 0
    abandoned: int = 0

    @property
    def lost(self) -> int:
        """Paid for and not trained on, for another reason than age."""
        return self.evicted + self.abandoned

    @property
    def is_complete(self) -> bool:
        return self.produced == self.queued + self.reserved + self.consumed + self.stale + self.lost


class ReadyQueue:
    """Bounded, in order of arrival, one lock and one condition (those of the clock's meeting).

    Actor: `put`. Consumes nothing, waits for room; unblocked by `reserve`, by packs that become stale, by `want`, and by the end of the run.
    Learner: `drop_stale`, `reserve`, `take`, `want`. None of them waits; whoever waits for packs does it at the meeting.
    Everyone: `ready`, `counts`, `wanted`, `is_fresh`.

    Example:
        queue = ReadyQueue(6, window=2, clock=clock)
        queue.put(ReadyPack(pack, version=clock.version, round=0), timeout_s=60)
        queue.reserve(version=clock.version, count=1)
        (taken,) = queue.take()
    """

    def __init__(self, limit: int, *, window: int, clock: PolicyClock) -> None:
        """Args beside the obvious.

        limit: packs that are queued at most.
        window: a pack is used while its version is at most this much older than the clock's.
        """
        if limit < 1 or window < 0:
            raise ValueError(f"a queue needs a limit of at least 1 and a window of at least 0, got {limit} and {window}")
        self.limit, self.window = limit, window
        self._clock, self._meeting = clock, clock.meeting
        self._packs: deque[ReadyPack] = deque()
        self._reserved: tuple[ReadyPack, ...] = ()
        self._counter = Counter[str]()
        self._wanted: int | None = None

    @property
    def ready(self) -> Mapping[int, int]:
        """Packs that are queued and fresh, by version, the oldest first."""
        with self._meeting.lock:
            return dict(sorted(Counter(pack.version for pack in self._packs if self.is_fresh(pack.version)).items()))

    @property
    def counts(self) -> QueueCounts:
        with self._meeting.lock:
            return QueueCounts(queued=len(self._packs), reserved=len(self._reserved), **self._counter)

    @property
    def wanted(self) -> int | None:
        """The version of which the learner waits for packs, whatever else is queued; None: it does not."""
        return self._wanted

    def is_fresh(self, version: int) -> bool:
        """Whether a pack of this version would be used now."""
        return version >= self._clock.version - self.window

    def put(self, pack: ReadyPack, *, timeout_s: float) -> Admission:
        """Queue a pack, waiting for room; one that has become too old is dropped and counted. The actor's.

        Raises:
            WaitTimeoutError: there was no room for so long.
            ClosedError: the run ended; the pack is counted as abandoned.
        """
        result = Admission.FULL

        def is_admitted() -> bool:
            nonlocal result
            result = self.offer(pack)
            return result is not Admission.FULL

        try:
            self._meeting.wait_for(is_admitted, what=lambda: f"room in {self}", timeout_s=timeout_s)
        except ClosedError:
            with self._meeting.changing():
                self._counter.update(produced=1, abandoned=1)
            raise
        return result

    def offer(self, pack: ReadyPack) -> Admission:
        """`put` that does not wait.

        Raises:
            ValueError: the pack is newer than the clock's version, which nobody can have made.
        """
        with self._meeting.lock:
            if pack.version > self._clock.version:
                raise ValueError(f"a pack of version {pack.version}, and the newest policy is {self._clock.version}: {self}")
            self.drop_stale()
            if not self.is_fresh(pack.version):
                self._counter.update(produced=1, stale=1)
                self._meeting.wake()
                return Admission.STALE
            if len(self._packs) >= self.limit and not self._evict_oldest(pack.version):
                return Admission.FULL
            self._packs.append(pack)
            self._counter.update(produced=1)
            self._meeting.wake()
            return Admission.QUEUED

    def _evict_oldest(self, version: int) -> bool:
        """Only for the version that the learner waits for: else a full queue makes the actor wait."""
        oldest = min(self._packs, key=lambda pack: pack.version)
        if self._wanted is None or version < self._wanted or oldest.version >= version:
            return False
        self._packs.remove(oldest)
        self._counter.update(evicted=1)
        return True

    def drop_stale(self) -> int:
        """Drop what has become too old; returns how many. Called by whoever moves the clock's version."""
        with self._meeting.lock:
            fresh = deque(pack for pack in self._packs if self.is_fresh(pack.version))
            num_stale = len(self._packs) - len(fresh)
            if num_stale:
                self._packs = fresh
                self._counter.update(stale=num_stale)
                self._meeting.wake()
            return num_stale

    def want(self, version: int | None) -> None:
        """Say that the learner waits for packs of this version; None: it does not any more. The learner's."""
        with self._meeting.changing():
            self._wanted = version

    def reserve(self, *, version: int, count: int) -> None:
        """Set aside the oldest packs of this version for the step that was just decided. The learner's.

        Raises:
            ValueError: there are not so many, or the last ones were not taken.
        """
        with self._meeting.changing():
            if self._reserved:
                raise ValueError(f"{len(self._reserved)} packs are reserved already: {self}")
            chosen = [pack for pack in self._packs if pack.version == version][:count]
            if len(chosen) < count or not self.is_fresh(version):
                raise ValueError(f"{count} packs of version {version} were counted, and there are {len(chosen)}: {self}")
            kept = {id(pack) for pack in chosen}
            self._packs = deque(pack for pack in self._packs if id(pack) not in kept)
            self._reserved = tuple(chosen)

    def take(self) -> tuple[ReadyPack, ...]:
        """The reserved packs, which count as consumed. The learner's."""
        with self._meeting.changing():
            taken, self._reserved = self._reserved, ()
            self._counter.update(consumed=len(taken))
            return taken

    def __str__(self) -> str:
        counts = self.counts
        by_version = ", ".join(f"{number} of version {version}" for version, number in self.ready.items()) or "none"
        return (
            f"queue with {counts.queued} of at most {self.limit} packs (fresh: {by_version}), policy version {self._clock.version}, window {self.window}, "
            f"{counts.produced} produced, {counts.consumed} consumed, {counts.stale} stale, {counts.lost} lost, {counts.reserved} reserved"
        )
