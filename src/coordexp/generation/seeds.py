"""Seeds that belong to a request, not to its place in a batch: the same record gets the same random numbers alone, in any batch, shard or resumed run."""

from __future__ import annotations

import hashlib

_SEED_BITS = 63
"""torch generators take a signed 64-bit seed."""


def request_seed(base: int, key: str) -> int:
    """The seed of the request named `key` in a run with the seed `base`. Example: `request_seed(42, "val:12")`"""
    digest = hashlib.sha256(f"{base}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)
