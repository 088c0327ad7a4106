"""Sub-bin coordinates: the expectation over the bins around the most probable one.

    k* = argmax p(k)        E = sum k·p(k) / sum p(k)   over |k - k*| <= w

The mean over all bins would put a coordinate between two far modes, where nothing is; within the window it is a mean of what one mode means. p is the model's
own distribution over the coordinate tokens of that slot (of a server: over the bins among its most probable tokens).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from coordexp.codec.pieces import TextPieces
from coordexp.types.rollouts import SalvagedObject, TokenTrace

_DECIMALS = 4
"""Of a bin: files do not depend on the last bits of a sum."""


def expected_values(item: SalvagedObject, *, pieces: TextPieces, trace: Sequence[TokenTrace], window: int) -> tuple[float, ...]:
    """The coordinates of an object, in bins; those that were not written as one coordinate token stay as they were written.

    Args:
        item: with the characters of its coordinates.
        pieces: the response.
        trace: one entry for each token of the response.
        window: bins on each side of the most probable one.
    """
    entries = [trace[slice(*pieces.token_span(*chars))] for chars in item.coord_chars]
    return tuple(
        _expected_bin(slot[0], window=window) if len(slot) == 1 and slot[0].coord_probs else value for slot, value in zip(entries, item.values, strict=True)
    )


def _expected_bin(entry: TokenTrace, *, window: int) -> float:
    bins, probs = entry.coord_bins, entry.coord_probs
    mode = bins[max(range(len(probs)), key=probs.__getitem__)]
    first, end = bisect_left(bins, mode - window), bisect_left(bins, mode + window + 1)
    mass = math.fsum(probs[first:end])
    if mass == 0.0:
        return float(mode)
    return round(math.fsum(k * p for k, p in zip(bins[first:end], probs[first:end], strict=True)) / mass, _DECIMALS)
