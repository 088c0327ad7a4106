"""Rounds of rollouts as the actor takes them: encode, roll, pack. The samples of round n are those of the n-th Channel B step, and so are its seeds.

Packed rows hold several samples, so that the samples of one step may fill fewer rows than a step takes. The actor then goes on with those of the next steps,
under the same weights, until there are enough: packs of one step are of one version, and no pack is left over because a sync came in between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from coordexp.rollout.gates import InvariantError
from coordexp.rollout.ready_queue import ReadyPack, RoundFacts
from coordexp.rollout.report import RolloutReport
from coordexp.rollout.samples import ProducedRollout
from coordexp.training.channels import ChannelSchedule
from coordexp.training.rollout_rounds import RolloutRounds, RoundTasks
from coordexp.types.sequences import Pack


class AsyncRounds:
    """See `coordexp.rollout.actor.RoundSource`. Used by the actor's thread alone."""

    def __init__(self, rounds: RolloutRounds, *, channels: ChannelSchedule, packs_per_step: int, has_single_rounds: bool, first: int = 0) -> None:
        """Args beside the obvious.

        packs_per_step: a round becomes at least so many packs.
        has_single_rounds: by fillers of weight 0, so that a step trains on the samples that it would train on in synchronous form; else by further samples.
        first: where the samples begin, in a resumed run.
        """
        self.rounds, self.channels = rounds, channels
        self.packs_per_step, self.has_single_rounds = packs_per_step, has_single_rounds
        self._number, self._start, self._next = -1, first, first

    def begin(self, number: int) -> AsyncRound:
        """Read and encode its samples; a round that is begun again has the same ones.

        Raises:
            DataError: a record that cannot be encoded.
        """
        if number != self._number:
            self._number, self._start = number, self._next
        return AsyncRound(self, self._start)

    def end(self, following: int) -> None:
        """A round was made; the next one begins with the samples of `following`."""
        self._next = following


class AsyncRound:
    """See `coordexp.rollout.actor.Round`."""

    def __init__(self, source: AsyncRounds, start: int) -> None:
        self._source, self._start = source, start
        self._chosen = source.rounds.tasks(start)
        self._version = -1
        self._packs: tuple[Pack, ...] = ()
        self._facts: RoundFacts | None = None
        self._following = start
        self._shown: list[tuple[tuple[ProducedRollout, ...], int]] = []
        """Rollouts with the step whose samples they are, for a dump."""

    @property
    def num_requests(self) -> int:
        return len(self._chosen.tasks)

    def roll(self, version: int) -> None:
        """See `Round.roll`.

        Raises:
            BackendError: rollouts could not be made.
            DataError: a rollout does not fit into a row.
            InvariantError: the backend answered with the weights of another version.
        """
        source, self._version, self._following = self._source, version, self._start
        rounds, chosen = source.rounds, self._chosen
        made: list[ProducedRollout] = []
        report: RolloutReport | None = None
        num_skipped, pack_s, packs = 0, 0.0, ()
        while len(packs) < source.packs_per_step and self._following - self._start < max(1, rounds.rounds_per_epoch):
            chosen = rounds.tasks(self._following) if self._following > self._start else chosen
            rollouts, said = self._produce(chosen)
            made += rollouts
            report = said if report is None else report + said
            num_skipped += chosen.num_skipped
            start = time.perf_counter()
            packs = rounds.pack([rollout.segment for rollout in made], chosen)
            pack_s += time.perf_counter() - start
            self._following += 1
            if source.has_single_rounds:
                break
        assert report is not None
        self._packs = self._fill_up(packs, made, chosen)
        self._facts = RoundFacts(report, num_skipped=num_skipped, pack_s=pack_s)

    def _produce(self, chosen: RoundTasks) -> tuple[tuple[ProducedRollout, ...], RolloutReport]:
        step = self._source.channels.step_of_b(self._following)
        rollouts, report = self._source.rounds.produce(chosen, step=step)
        # a backend that does not know its weights says 0
        found = {rollout.read.sample.policy_version for rollout in rollouts} or {0}
        if found not in ({0}, {self._version}):
            raise InvariantError(f"round {self._following} was made with the policy versions {sorted(found)}, and the servers should hold {self._version}")
        self._shown.append((rollouts, step))
        return rollouts, report

    def _fill_up(self, packs: Sequence[Pack], made: Sequence[ProducedRollout], chosen: RoundTasks) -> tuple[Pack, ...]:
        """At least as many packs as a step takes; padded ones a multiple of that."""
        wanted = self._source.packs_per_step
        if self._source.has_single_rounds:
            wanted *= max(1, -(-len(packs) // wanted))
        if len(packs) >= wanted:
            return tuple(packs)
        return self._source.rounds.pack([rollout.segment for rollout in made], chosen, num_packs=wanted)

    def packs(self) -> Sequence[ReadyPack]:
        assert self._facts is not None, "packs() before roll()"
        self._source.end(self._following)
        for rollouts, step in self._shown:
            self._source.rounds.dump(rollouts, step=step)
        last = self._following - 1
        return [ReadyPack(pack, version=self._version, round=last, facts=self._facts if number == 0 else None) for number, pack in enumerate(self._packs)]
