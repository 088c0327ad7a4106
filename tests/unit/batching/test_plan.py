from __future__ import annotations

import numpy as np
import pytest

from coordexp.batching.plan import plan_padded
from coordexp.types.sequences import Segment


def segment(name: str, length: int) -> Segment:
    return Segment(
        sample_id=name,
        dataset="",
        token_ids=np.zeros(length, dtype=np.int32),
        ce_weight=np.ones(length, dtype=np.float32),
        roles=np.zeros(length, dtype=np.int8),
        slots=(),
        images=(),
    )


SEGMENTS = [segment(name, length) for name, length in (("a", 9), ("b", 2), ("c", 8), ("d", 3), ("e", 2))]


def test_neighbours_in_length_share_a_pack() -> None:
    packs = plan_padded(SEGMENTS, per_pack=2)
    assert [[s.sample_id for s in pack.segments] for pack in packs] == [["b", "e"], ["d", "c"], ["a"]]


def test_a_short_rank_gets_filler_packs() -> None:
    packs = plan_padded(SEGMENTS[:2], per_pack=2, num_packs=3)
    assert [pack.is_filler for pack in packs] == [False, True, True]
    assert packs[1].segments[0].sample_id == "b"


def test_an_empty_rank_needs_a_donor() -> None:
    assert plan_padded([], per_pack=2, num_packs=1, donor=SEGMENTS[0])[0].is_filler
    with pytest.raises(ValueError, match="donor"):
        plan_padded([], per_pack=2, num_packs=1)


def test_too_few_packs_are_refused() -> None:
    with pytest.raises(ValueError, match="5 segments make 3 packs"):
        plan_padded(SEGMENTS, per_pack=2, num_packs=2)
