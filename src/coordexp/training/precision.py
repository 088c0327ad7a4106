"""Number formats that training can work in; what would silently learn nothing is refused or said."""

from __future__ import annotations

import torch
from torch import nn

from coordexp.types.errors import ConfigError


def check_precision(model: nn.Module, *, fp16: bool, has_cuda: bool) -> str | None:
    """A warning for a combination that works badly, or None.

    Args:
        model: with the parameters that will be trained marked.
        fp16: mixed precision with float16 was asked for.
        has_cuda: training runs on a CUDA device.

    Raises:
        ConfigError: float16 without a CUDA device, or trainable weights in float16.
    """
    if fp16 and not has_cuda:
        raise ConfigError("mixed precision with float16 needs a CUDA GPU", where="training.fp16", fix="use training.bf16: true, or neither of them")
    formats = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    if torch.float16 in formats:
        raise ConfigError(
            "weights in float16 cannot be trained: their gradients cannot be unscaled, and small steps vanish",
            where="model.torch_dtype",
            fix="load float32 weights and set training.fp16: true, or use bfloat16",
        )
    if torch.bfloat16 in formats:
        return (
            "warning: bfloat16 weights are trained in place: a step smaller than 1/256 of a weight is lost; with model.torch_dtype: float32 and training.bf16: "
            "true, or with tuner.train_type: lora, nothing is"
        )
    return None
