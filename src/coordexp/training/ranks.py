"""Exchange of small objects between the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from coordexp.types.errors import BackendError, ConfigError

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


def check_devices(environment: Mapping[str, str], *, use_cpu: bool, num_gpus: int) -> None:
    """Refuse what would train on another device than the one that was asked for, or as several runs in place of one.

    Args:
        environment: what torchrun and the user have set.
        use_cpu: the setting of that name.
        num_gpus: that PyTorch sees.

    Raises:
        ConfigError: GPUs were named and there are none, or several processes were started and there are fewer GPUs.
    """
    if use_cpu:
        return
    named = environment.get("CUDA_VISIBLE_DEVICES", "")
    here = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    fix = "for a training on the CPU set training.use_cpu: true (scripts/train.sh: gpus=cpu); otherwise 'coordexp doctor env' shows GPU, driver and PyTorch"
    if named not in ("", "-1") and num_gpus == 0:
        raise ConfigError(f"CUDA_VISIBLE_DEVICES={named} names GPUs, and PyTorch sees none", fix=fix)
    if int(environment.get("WORLD_SIZE", "1")) > 1 and num_gpus < here:
        raise ConfigError(f"{here} processes were started on this machine, and PyTorch sees {num_gpus or 'no'} GPU{'s' * (num_gpus > 1)}", fix=fix)


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
