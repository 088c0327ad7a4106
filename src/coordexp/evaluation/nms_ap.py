"""NMS-AP for open vocabularies: AP after class-agnostic non-maximum suppression, so that one object said under several names counts once."""

from __future__ import annotations

from dataclasses import dataclass

NMS_IOU = 0.50


@dataclass(frozen=True, slots=True)
class NmsAp:
    """Example: `NmsAp(ap=0.31, ap50=0.47, num_removed=1204)`"""

    ap: float
    """-1 where undefined."""
    ap50: float
    num_removed: int
    """Predictions that a higher scoring one of the same image covers with IoU > 0.50."""
