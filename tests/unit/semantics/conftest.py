"""The real encoder, once."""

from __future__ import annotations

import pytest

from coordexp.semantics.encoder import load_encoder
from coordexp.semantics.protocol import TextEncoder


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    return load_encoder()
