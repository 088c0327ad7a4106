"""What the rest of the package knows of a text encoder. Encoders are made in `coordexp.semantics.encoder` and handed in from above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class TextEncoder(Protocol):
    """Turns texts into vectors whose dot product is their cosine.

    Example: `encoder.encode(["cat", "dog"])` is float32 [2, 384]; `encoder.name == "sentence-transformers/all-MiniLM-L6-v2@53aa51172d14"`.
    """

    @property
    def name(self) -> str:
        """Who it is, with a hash of its weights: the identity in caches and in metrics.json."""
        ...

    def encode(self, texts: Sequence[str]) -> Vectors:
        """[N, D], rows of length 1, in the order of `texts`."""
        ...
