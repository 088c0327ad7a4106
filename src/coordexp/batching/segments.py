"""Prompt and target to one training sample. The only place where positions are shifted: everything after counts from the first prompt token."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from coordexp.types.errors import DataError
from coordexp.types.sequences import CoordSlot, PromptInputs, Segment, TargetSequence

Truncation: TypeAlias = Literal["raise", "right"]

PROMPT_ROLE = -1
"""Role of prompt tokens in `Segment.roles`."""


def join_segment(
    sample_id: str, *, prompt: PromptInputs, target: TargetSequence, dataset: str = "", max_length: int | None = None, truncation: Truncation = "raise"
) -> Segment:
    """The segment `prompt + target`.

    Args:
        sample_id: names the sample in errors and logs.
        prompt: image placeholders expanded.
        target: positions count from its first token.
        dataset: the data set the sample belongs to.
        max_length: tokens; None is no limit.
        truncation: what to do with a longer sample. `right` cuts the END of the target: objects, the closing brace and the end token are lost, so
            the model is not taught to stop there; slots that are cut into are dropped whole. The prompt is never cut.

    Raises:
        DataError: longer than `max_length` and `raise`, or the prompt alone does not fit.
    """
    offset, length = len(prompt.token_ids), len(prompt.token_ids) + len(target.token_ids)
    if max_length is not None and length > max_length:
        if truncation == "raise" or offset >= max_length:
            raise DataError(
                f"the sample has {length} tokens ({offset} of them prompt and image), more than global_max_length {max_length}",
                where=sample_id,
                fix="raise global_max_length, use smaller images, or take the sample out",
            )
        target = _cut(target, max_length - offset)
    return Segment(
        sample_id=sample_id,
        dataset=dataset,
        token_ids=np.concatenate((prompt.token_ids, target.token_ids)).astype(np.int32, copy=False),
        ce_weight=np.concatenate((np.zeros(offset, dtype=np.float32), target.ce_weight)).astype(np.float32, copy=False),
        roles=np.concatenate((np.full(offset, PROMPT_ROLE, dtype=np.int8), target.roles)).astype(np.int8, copy=False),
        slots=tuple(shift_slot(slot, offset) for slot in target.slots),
        images=prompt.images,
    )


def shift_slot(slot: CoordSlot, offset: int) -> CoordSlot:
    """The slot in a sequence that has `offset` more tokens in front."""
    return replace(slot, positions=tuple(position + offset for position in slot.positions))


def _cut(target: TargetSequence, length: int) -> TargetSequence:
    slots = tuple(slot for slot in target.slots if slot.positions[-1] < length)
    return TargetSequence(token_ids=target.token_ids[:length], ce_weight=target.ce_weight[:length], roles=target.roles[:length], slots=slots)
