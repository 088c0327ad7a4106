"""What happened in rollouts, counted sample by sample; reports of several batches add up. `measures` turns a report into metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from coordexp.rollout.desc import NameCounts
from coordexp.rollout.samples import ProducedRollout, ReadRollout
from coordexp.types.rollouts import DropReason, GenerationSettings
from coordexp.types.sequences import Provenance

_OWN = (Provenance.MATCHED, Provenance.UNMATCHED, Provenance.DROPPED)


@dataclass(frozen=True, slots=True)
class AnswerCounts:
    """One answer."""

    num_prompt_tokens: int
    num_tokens: int
    """Generated, without the stop token."""
    is_truncated: bool
    is_invalid: bool
    num_gt: int
    num_pred: int
    """Valid objects."""
    dropped: Mapping[DropReason, int]
    num_ambiguous: int
    num_matched: int
    iou_sum: float
    num_candidates: int
    num_gated: int

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class TargetCounts:
    """One target."""

    num_tokens: int
    num_own_tokens: int
    """Of the model's own entries."""
    num_untaught_added_tokens: int
    """Of ours, with neither cross-entropy nor a slot."""
    segment_length: int
    num_supervised: int
    """Matched objects that have a slot."""
    num_excluded: int
    """Matched objects of the answer that have none."""
    num_appended: int
    num_matched_coords: int
    """Supervised coordinates of matched objects."""
    num_joins: int
    """Places where the model's tokens meet ours."""
    num_noncanonical_joins: int
    is_fallback: bool


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """The rollouts of a step on one device, or of an evaluation. Reports of its batches are added in order."""

    generation: GenerationSettings
    backend: str
    seed_base: int
    answers: tuple[AnswerCounts, ...] = ()
    targets: tuple[TargetCounts, ...] = ()
    """Empty in an evaluation."""
    names: NameCounts | None = None
    """None: there is no desc monitor."""
    is_gate_active: bool = False
    """A text encoder judged the names of matched objects for the target."""
    generate_s: float = 0.0
    parse_match_s: float = 0.0
    encode_s: float = 0.0

    def __add__(self, other: RolloutReport) -> RolloutReport:
        return replace(
            other,
            answers=self.answers + other.answers,
            targets=self.targets + other.targets,
            names=other.names if self.names is None else self.names if other.names is None else self.names + other.names,
            generate_s=self.generate_s + other.generate_s,
            parse_match_s=self.parse_match_s + other.parse_match_s,
            encode_s=self.encode_s + other.encode_s,
        )

    def with_targets(self, targets: tuple[TargetCounts, ...], *, encode_s: float, is_gate_active: bool) -> RolloutReport:
        """The report of the same answers after their targets were made."""
        return replace(self, targets=targets, encode_s=encode_s, is_gate_active=is_gate_active)


def count_answer(read: ReadRollout) -> AnswerCounts:
    """What an answer held."""
    parsed, match = read.parsed, read.match
    reasons = [item.reason for item in parsed.dropped]
    return AnswerCounts(
        num_prompt_tokens=len(read.task.prompt.token_ids),
        num_tokens=len(read.sample.response_ids),
        is_truncated=parsed.is_truncated,
        is_invalid=parsed.is_invalid,
        num_gt=len(read.task.objects),
        num_pred=len(parsed.objects),
        dropped={reason: reasons.count(reason) for reason in set(reasons)},
        num_ambiguous=parsed.num_ambiguous,
        num_matched=len(match.pairs),
        iou_sum=match.iou_sum,
        num_candidates=read.num_candidates,
        num_gated=match.num_gated,
    )


def count_target(rollout: ProducedRollout) -> TargetCounts:
    """What a target holds."""
    made, parsed = rollout.target, rollout.read.parsed
    matched = [slot for slot in made.target.slots if slot.provenance is Provenance.MATCHED]
    supervised = {made.kept.objects[pair.pred].value_chars for pair in made.match.pairs} if matched else set[tuple[int, int]]()
    is_own = np.array([provenance in _OWN for provenance in made.provenance], dtype=bool)
    is_taught = made.target.ce_weight > 0
    for slot in made.target.slots:
        is_taught[list(slot.positions)] |= slot.weight > 0
    return TargetCounts(
        num_tokens=len(is_own),
        num_own_tokens=int(np.count_nonzero(is_own)),
        num_untaught_added_tokens=int(np.count_nonzero(~is_own & ~is_taught)),
        segment_length=rollout.segment.length,
        num_supervised=len(matched),
        num_excluded=sum(parsed.objects[pair.pred].value_chars not in supervised for pair in rollout.read.match.pairs),
        num_appended=len(made.match.missed),
        num_matched_coords=sum(len(slot.positions) for slot in matched),
        num_joins=made.num_joins,
        num_noncanonical_joins=made.num_noncanonical_joins,
        is_fallback=made.is_fallback,
    )
