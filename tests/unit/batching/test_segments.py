from __future__ import annotations

import numpy as np
import pytest

from coordexp.batching.segments import join_segment
from coordexp.types.errors import DataError
from coordexp.types.sequences import CoordSlot, PromptInputs, Role, TargetSequence

PROMPT = PromptInputs(token_ids=np.arange(5, dtype=np.int32), images=(), text="")
SLOTS = tuple(CoordSlot(kind="bbox_2d", positions=(s, s + 1, s + 2, s + 3), target_bins=(1.0, 2.0, 3.0, 4.0)) for s in (1, 6))
TARGET = TargetSequence(
    token_ids=np.arange(100, 112, dtype=np.int32),
    ce_weight=np.ones(12, dtype=np.float32),
    roles=np.full(12, Role.FORMAT, dtype=np.int8),
    slots=SLOTS,
)


def test_positions_of_slots_are_shifted_by_the_prompt() -> None:
    segment = join_segment("a:1", prompt=PROMPT, target=TARGET)
    assert segment.slots[0].positions == (6, 7, 8, 9)
    assert segment.token_ids[6] == TARGET.token_ids[1]
    assert segment.length == 17


def test_the_prompt_is_not_supervised() -> None:
    segment = join_segment("a:1", prompt=PROMPT, target=TARGET)
    assert segment.ce_weight[:5].tolist() == [0.0] * 5
    assert segment.roles[:5].tolist() == [-1] * 5


def test_a_long_sample_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"^a:1: the sample has 17 tokens \(5 of them prompt and image\), more than global_max_length 16"):
        join_segment("a:1", prompt=PROMPT, target=TARGET, max_length=16)


def test_truncation_drops_the_slots_that_it_cuts_into() -> None:
    segment = join_segment("a:1", prompt=PROMPT, target=TARGET, max_length=13, truncation="right")
    assert segment.length == 13
    assert [slot.positions for slot in segment.slots] == [(6, 7, 8, 9)]


def test_the_prompt_is_never_cut() -> None:
    with pytest.raises(DataError, match="global_max_length 5"):
        join_segment("a:1", prompt=PROMPT, target=TARGET, max_length=5, truncation="right")
