"""Where a training may start, what its processes exchange, and what one says when another has gone (killed: tests/e2e/test_async_faults.py)."""

from __future__ import annotations

import pytest

from coordexp.training.ranks import check_devices, explain_lost_rank, gather_objects
from coordexp.types.errors import BackendError, ConfigError

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


@pytest.mark.parametrize(
    ("environment", "num_gpus", "sentence"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1"}, 0, "CUDA_VISIBLE_DEVICES=1 names GPUs, and PyTorch sees none"),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 0, "2 processes were started on this machine, and PyTorch sees no GPU"),
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": "0,1"}, 2, "4 processes were started on this machine, and PyTorch sees 2 GPUs"),
    ],
)
def test_devices_that_are_not_there_are_no_reason_to_train_on_others(environment: dict[str, str], num_gpus: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_devices(environment, use_cpu=False, num_gpus=num_gpus)
    check_devices(environment, use_cpu=True, num_gpus=num_gpus)


@pytest.mark.parametrize(
    ("environment", "num_gpus"),
    [({}, 0), ({"CUDA_VISIBLE_DEVICES": ""}, 0), ({"CUDA_VISIBLE_DEVICES": "6,7", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, 2), ({"WORLD_SIZE": "1"}, 0)],
)
def test_devices_that_are_there_or_that_nobody_asked_for_are_taken(environment: dict[str, str], num_gpus: int) -> None:
    check_devices(environment, use_cpu=False, num_gpus=num_gpus)
