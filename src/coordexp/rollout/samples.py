"""What flows through a rollout step: a task, the answer to it as it was read, and the target that is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from coordexp.targets.prefix import KeptEntries
from coordexp.targets.rollout import RolloutTarget
from coordexp.types.records import DetObject
from coordexp.types.rollouts import GenerationSample, Match, ParsedRollout
from coordexp.types.sequences import PromptInputs, Segment


@dataclass(frozen=True, slots=True)
class RolloutTask:
    """One sample to roll out: what the model is asked, and what the annotation says.

    Example: `RolloutTask("train:7", prompt=encoder.encode(prompt, image), objects=order_objects(record.objects, ordering="sorted", seed=0))`
    """

    sample_id: str
    prompt: PromptInputs
    """The same ids and pixels as in training."""
    objects: tuple[DetObject, ...]
    """In bins, in the order in which a target writes them."""
    dataset: str = ""
    index: int = 0
    """Number of the record in its data set; with `epoch` it finds the picture again."""
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ReadRollout:
    """An answer, read and matched."""

    task: RolloutTask
    sample: GenerationSample
    parsed: ParsedRollout
    match: Match
    """Of `parsed.objects` and `task.objects`: how well the model did, whatever the target keeps of it."""
    num_candidates: int
    """Pairs that the matching looked at."""


@dataclass(frozen=True, slots=True)
class ProducedRollout:
    """An answer with its target."""

    read: ReadRollout
    kept: KeptEntries
    """The entries of the answer before `cut_surplus`; `target.kept` is what the target holds."""
    target: RolloutTarget
    segment: Segment
