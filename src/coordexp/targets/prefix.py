"""Which entries of a model's answer the target goes on from. The answer's own tokens are never changed here: entries stay, leave, or are cut off at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from coordexp.matching.iou import object_iou
from coordexp.semantics.normalize import normalize_label
from coordexp.types.records import DetObject
from coordexp.types.rollouts import Match, ParsedEntry, ParsedObject, ParsedRollout

PrefixMode: TypeAlias = Literal["raw", "clean"]
"""`raw`: as the model wrote it. `clean`: without repeated objects, and without entries that are no objects."""

DUPLICATE_IOU = 0.9
"""An object with the name of an earlier one and an IoU above this repeats it."""


@dataclass(frozen=True, slots=True)
class KeptEntries:
    """The entries that stay, and why others went.

    Example: of three entries, of which the second repeats the first: `KeptEntries(numbers=(0, 2), objects=(…, …), num_duplicates=1)`.
    """

    numbers: tuple[int, ...]
    """Positions in `ParsedRollout.entries`, ascending."""
    objects: tuple[ParsedObject, ...]
    """What was read from them, in order: the predictions that are matched."""
    num_out_of_sequence: int = 0
    """Cut off from the first key that is not the one after its predecessor."""
    num_duplicates: int = 0
    num_unreadable: int = 0
    """Dropped or ambiguous ones that were taken out."""
    num_surplus: int = 0
    """Cut off because nothing matched follows and the ground truth has no more objects."""
    num_unmatched: int = 0
    """Taken out because they match no annotation."""


def keep_entries(parsed: ParsedRollout, *, prefix: PrefixMode = "raw", cut_out_of_sequence_keys: bool = False) -> KeptEntries:
    """The entries that are matched and kept.

    Args:
        parsed: the answer.
        prefix: `clean` takes out every object that repeats an earlier one, and every entry from which no object was read.
        cut_out_of_sequence_keys: end before the first entry whose key is not `object_1`, `object_2`, … in turn: a model that was taught to go on from an absurd
            key goes on counting from there.
    """
    entries = parsed.entries
    num_in_sequence = _num_in_sequence(entries) if cut_out_of_sequence_keys else len(entries)
    numbers = range(num_in_sequence)
    repeated: set[int] = set()
    if prefix == "clean":
        readable = [number for number in numbers if entries[number].object_number is not None]
        repeated = {readable[place] for place in _repeated(_read(parsed, readable))}
        numbers = [number for number in readable if number not in repeated]
    return KeptEntries(
        numbers=tuple(numbers),
        objects=_read(parsed, numbers),
        num_out_of_sequence=len(entries) - num_in_sequence,
        num_duplicates=len(repeated),
        num_unreadable=num_in_sequence - len(numbers) - len(repeated),
    )


def refuse_other_names(kept: KeptEntries, match: Match, objects: Sequence[DetObject]) -> Match:
    """The match without the pairs that are called differently: their predictions count as unmatched, their annotations as missed."""
    pairs = tuple(pair for pair in match.pairs if normalize_label(kept.objects[pair.pred].desc) == normalize_label(objects[pair.gt].desc))
    refused = set(match.pairs) - set(pairs)
    return replace(
        match,
        pairs=pairs,
        missed=tuple(sorted({*match.missed, *(pair.gt for pair in refused)})),
        unmatched=tuple(sorted({*match.unmatched, *(pair.pred for pair in refused)})),
    )


def drop_unmatched(parsed: ParsedRollout, kept: KeptEntries, match: Match) -> tuple[KeptEntries, Match]:
    """Without the predictions that match no annotation. Entries from which no object was read stay."""
    gone = set(match.unmatched)
    is_kept: list[bool] = []
    pred = 0
    for number in kept.numbers:
        has_object = parsed.entries[number].object_number is not None
        is_kept.append(not has_object or pred not in gone)
        pred += has_object
    numbers = tuple(number for number, stays in zip(kept.numbers, is_kept, strict=True) if stays)
    new_number = {old: new for new, old in enumerate(sorted(pair.pred for pair in match.pairs))}
    pairs = tuple(replace(pair, pred=new_number[pair.pred]) for pair in match.pairs)
    return replace(kept, numbers=numbers, objects=_read(parsed, numbers), num_unmatched=len(gone)), replace(match, pairs=pairs, unmatched=())


def cut_surplus(parsed: ParsedRollout, kept: KeptEntries, match: Match, *, num_objects: int) -> tuple[KeptEntries, Match]:
    """Without the unmatched entries at the end that stand beyond the number of annotated objects, so that the answer closes where it should.

    No matched entry goes, so the match stays what it is but for the predictions that left.
    """
    matched = {pair.pred for pair in match.pairs}
    last_matched, pred = -1, 0
    for place, number in enumerate(kept.numbers):
        if parsed.entries[number].object_number is not None:
            last_matched = place if pred in matched else last_matched
            pred += 1
    numbers = kept.numbers[: max(num_objects, last_matched + 1)]
    objects = _read(parsed, numbers)
    shorter = replace(kept, numbers=numbers, objects=objects, num_surplus=len(kept.numbers) - len(numbers))
    return shorter, replace(match, unmatched=tuple(pred for pred in match.unmatched if pred < len(objects)))


def _num_in_sequence(entries: Sequence[ParsedEntry]) -> int:
    return next((number for number, entry in enumerate(entries) if entry.index != number + 1), len(entries))


def _read(parsed: ParsedRollout, numbers: Sequence[int]) -> tuple[ParsedObject, ...]:
    found = (parsed.entries[number].object_number for number in numbers)
    return tuple(parsed.objects[number] for number in found if number is not None)


def _repeated(objects: Sequence[ParsedObject]) -> list[int]:
    """Positions of the objects that have an earlier one of their name at an IoU above `DUPLICATE_IOU`."""
    by_name: dict[str, list[int]] = {}
    for place, item in enumerate(objects):
        by_name.setdefault(normalize_label(item.desc), []).append(place)
    repeated: list[int] = []
    for places in by_name.values():
        group = [objects[place].to_object() for place in places]
        if len(group) > 1:
            is_near = object_iou(group, group) > DUPLICATE_IOU
            repeated.extend(places[column] for column in np.flatnonzero(np.triu(is_near, k=1).any(axis=0)).tolist())
    return repeated
