"""CoordExp: a vision-language model as an open-vocabulary object detector, without a detection head.

Importing this package loads nothing heavy; import the room you need (`coordexp.codec`, `coordexp.evaluation`, …).
`from coordexp import Detector` loads torch, and only that.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0rc1"

_LAZY = {"Detections": "coordexp.pipeline.detections", "Detector": "coordexp.pipeline.detector"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
