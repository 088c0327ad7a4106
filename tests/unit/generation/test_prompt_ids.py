from __future__ import annotations

import numpy as np
import pytest

from coordexp.generation.prompt_ids import check_prompt_ids
from coordexp.types.errors import BackendError


def test_equal_ids_pass_whatever_holds_them() -> None:
    check_prompt_ids((1, 2, 3), np.array([1, 2, 3], dtype=np.int32), name="a")
    check_prompt_ids((), [], name="a")


@pytest.mark.parametrize(
    ("used", "expected", "shown"),
    [
        pytest.param(
            range(100, 120),
            [*range(100, 110), 7, *range(111, 120)],
            "at token 10: training (20 tokens) [… 104 105 106 107 108 109 >7< 111 112 113 114 115 116 …], "
            "backend (20 tokens) [… 104 105 106 107 108 109 >110< 111 112 113 114 115 116 …]",
            id="in the middle",
        ),
        pytest.param([1, 2], [1, 2, 3], "at token 2: training (3 tokens) [1 2 >3<], backend (2 tokens) [1 2 >end<]", id="one is shorter"),
        pytest.param([], [5], "at token 0: training (1 tokens) [>5<], backend (0 tokens) [>end<]", id="nothing"),
    ],
)
def test_a_mismatch_shows_both_sequences_around_the_first_difference(used, expected, shown: str) -> None:
    with pytest.raises(BackendError) as error:
        check_prompt_ids(tuple(used), tuple(expected), name="train:7")
    assert str(error.value).startswith(f"rollout of train:7: the backend's prompt differs from the training encoding {shown}; ")
    assert error.value.fix is not None
