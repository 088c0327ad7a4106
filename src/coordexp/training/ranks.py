"""Exchange of small objects between the processes of a run."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

T = TypeVar("T")


def gather_objects(value: T, *, world_size: int) -> list[T]:
    """The value of every rank, in order of rank. Every rank must call it; alone it returns at once."""
    if world_size == 1:
        return [value]
    everyone: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everyone, value)
    return everyone
