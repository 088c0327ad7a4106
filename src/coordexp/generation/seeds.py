"""Seeds that belong to a request, not to its place in a batch.

Inference: the same record gets the same random numbers alone, in any batch, shard or resumed run. Rollouts: a function of (training seed, step, place in
the step), so that a resumed training samples what the straight one does.
"""

from __future__ import annotations

import hashlib

_SEED_BITS = 63
"""torch generators take a signed 64-bit seed."""

_STEP_STRIDE = 1_000_003
_ROLLOUT_MASK = 0x7FFFFFFF
"""Servers take a positive 32-bit seed."""


def request_seed(base: int, key: str) -> int:
    """The seed of the request named `key` in a run with the seed `base`. Example: `request_seed(42, "val:12")`"""
    digest = hashlib.sha256(f"{base}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def rollout_seed_base(seed: int, *, global_step: int) -> int:
    """`(seed + global_step * 1000003) & 0x7FFFFFFF`: request i of the step uses this plus i. Logged as `rollout/seed_base`."""
    return (seed + global_step * _STEP_STRIDE) & _ROLLOUT_MASK
