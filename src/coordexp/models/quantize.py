"""Quantized base models for adapters (QLoRA), by bitsandbytes where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Literal, TypeAlias

import torch
from transformers import BitsAndBytesConfig

from coordexp.types.errors import BackendError

Quantization: TypeAlias = Literal["4bit", "8bit"]

_KEPT = ("lm_head", "model.visual")
"""Head and vision side keep their precision: they are small, and boxes suffer first."""


def quantization_config(kind: Quantization, *, dtype: torch.dtype) -> BitsAndBytesConfig:
    """For `from_pretrained`: NF4 with double quantization, or int8; computing in `dtype`.

    Raises:
        BackendError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackendError("bitsandbytes is not installed", where="model.quantization", fix="install it with: pip install bitsandbytes, or remove the setting")
    kept = list(_KEPT)
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=kept
    )
