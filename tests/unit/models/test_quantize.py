"""Quantization needs bitsandbytes; without it there is one sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from coordexp.models.load import load_model
from coordexp.types.errors import BackendError


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
@pytest.mark.parametrize("kind", ["4bit", "8bit"])
def test_without_bitsandbytes_there_is_one_sentence(tiny_folder: Path, kind: str) -> None:
    with pytest.raises(BackendError, match=r"model\.quantization: bitsandbytes is not installed; install it with: pip install bitsandbytes"):
        load_model(tiny_folder, quantization=kind)  # pyright: ignore[reportArgumentType]
