"""What processes of a training exchange, and what one says when another has gone. That one was killed is in tests/e2e/test_async_faults.py."""

from __future__ import annotations

import pytest

from coordexp.training.ranks import explain_lost_rank, gather_objects
from coordexp.types.errors import BackendError

GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711"


def test_alone_a_process_has_its_own_value() -> None:
    assert gather_objects({"a": 1}, world_size=1) == [{"a": 1}]


def test_a_connection_that_broke_is_one_sentence() -> None:
    with (
        pytest.raises(BackendError, match=r"another process of the training has ended or does not answer \(.*Connection closed"),
        explain_lost_rank(world_size=2),
    ):
        raise RuntimeError(GLOO)


@pytest.mark.parametrize(("said", "world_size"), [("shapes (3, 4) and (4, 5)", 2), (GLOO, 1)])
def test_other_errors_stay_what_they_are(said: str, world_size: int) -> None:
    with pytest.raises(RuntimeError) as caught, explain_lost_rank(world_size=world_size):
        raise RuntimeError(said)
    assert not isinstance(caught.value, BackendError)
    assert str(caught.value) == said
