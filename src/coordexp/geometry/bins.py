"""Coordinate bins: the only place that knows how many there are."""

from __future__ import annotations

NUM_BINS = 1000
MAX_BIN = NUM_BINS - 1
