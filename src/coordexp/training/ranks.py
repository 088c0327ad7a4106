"""Exchange of small objects between the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from coordexp.types.errors import BackendError

T = TypeVar("T")

_BROKEN = ("gloo/transport", "gloo/rendezvous", "NCCL", "Socket", "Broken pipe")
"""In what torch says when another process does not answer."""


def gather_objects(value: T, *, world_size: int) -> list[T]:
    """The value of every rank, in order of rank. Every rank must call it; alone it returns at once."""
    if world_size == 1:
        return [value]
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, value)
    return everyone


@contextmanager
def explain_lost_rank(*, world_size: int) -> Iterator[None]:
    """Raise `BackendError` in place of what the exchange between processes raises when one of them has ended, or does not answer in time."""
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if world_size == 1 or not any(part in said for part in _BROKEN):
            raise
        what = f"another process of the training has ended or does not answer ({said.strip().splitlines()[0].partition('. ')[0]})"
        fix = "its own error, or that of torchrun, says why; resume with training.resume_from_checkpoint: true"
        raise BackendError(what, fix=fix) from error
