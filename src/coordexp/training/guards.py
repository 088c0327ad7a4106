"""What must not happen in a forward of training, checked where the model is called."""

from __future__ import annotations

from typing import Any

from torch import nn

from coordexp.batching.collate import BatchContractError


def refuse_cache_in_training(model: nn.Module) -> None:
    """Make every call of `model` in training mode raise unless it says `use_cache=False`.

    The default is to make a cache, also in training; then the model takes a packed row for one sample, and each sample attends to those before it.
    """
    model.register_forward_pre_hook(_check_cache, with_kwargs=True)


def _check_cache(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if module.training and kwargs.get("use_cache") is not False:
        raise BatchContractError("a forward in training without use_cache=False: with a cache, samples of a packed row see the samples before them")
