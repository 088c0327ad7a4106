"""What a model is trained on: target sequences, segments and packs. numpy only; torch starts at collate."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from coordexp.types.records import GeometryKind

IntArray: TypeAlias = npt.NDArray[np.int32]
FloatArray: TypeAlias = npt.NDArray[np.float32]


class Role(IntEnum):
    """What a token of the assistant text is. Metric token types: COORD = coord, DESC = desc, every other role = format."""

    FORMAT = 0
    """JSON structure: braces, quotes, field names, separators, `object_`."""
    KEY = 1
    """The digits N of `object_N`."""
    DESC = 2
    """Inside a desc value, quotes excluded."""
    COORD = 3
    """A coordinate token (or, in text mode, the digits of a coordinate)."""
    CLOSE = 4
    """The outermost `}`."""
    END = 5
    """`<|im_end|>`."""


class Provenance(StrEnum):
    """Where a span of the target came from; together with `Role` it indexes the supervision table."""

    GROUND_TRUTH = "ground_truth"
    MATCHED = "matched"
    UNMATCHED = "unmatched"
    DROPPED = "dropped"
    APPENDED = "appended"
    CLOSURE = "closure"


@dataclass(frozen=True, slots=True)
class CoordSlot:
    """The coordinates of one object: where they stand and what they should be.

    Example: `CoordSlot(kind="bbox_2d", positions=(12, 14, 16, 18), target_bins=(110.0, 310.0, 410.0, 705.0))`
    """

    kind: GeometryKind
    positions: tuple[int, ...]
    """Token positions, 4 for a box, 2N for a polygon; relative to the sequence that holds the slot. The logits that predict position p stand at p-1."""
    target_bins: tuple[float, ...]
    """Real-valued bins in [0, 999], in the order of `positions`."""
    weight: float = 1.0
    provenance: Provenance = Provenance.GROUND_TRUTH


@dataclass(frozen=True, slots=True)
class TargetSequence:
    """The assistant's tokens with what is supervised and how much. Positions count from the first assistant token."""

    token_ids: IntArray
    """[T]"""
    ce_weight: FloatArray
    """[T]: weight of the token cross-entropy for predicting this token; 0 is not supervised. Coordinate tokens have 0 here: their loss is the slots'."""
    roles: npt.NDArray[np.int8]
    """[T] of `Role`."""
    slots: tuple[CoordSlot, ...]


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """One image as the vision tower takes it."""

    pixel_values: FloatArray
    """[num_patches, channels * temporal * patch * patch]"""
    grid_thw: tuple[int, int, int]
    """Patches in time, height, width, before merging."""


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """The encoded prompt: chat template applied, image placeholders expanded. Equal in training, inference and rollouts."""

    token_ids: IntArray
    """[P]"""
    images: tuple[ImageInputs, ...]
    text: str
    """The prompt before placeholder expansion, for messages and manifests."""
    system: str = ""
    user: str = ""
    """What the chat template made `text` of, beside the images; for a server that applies it again."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One training sample: prompt and target joined. All positions are absolute in `token_ids`; this is the only place where they were shifted."""

    sample_id: str
    dataset: str
    token_ids: IntArray
    """[L] = prompt then target."""
    ce_weight: FloatArray
    """[L]; 0 over the prompt."""
    roles: npt.NDArray[np.int8]
    """[L] of `Role`; -1 over the prompt."""
    slots: tuple[CoordSlot, ...]
    images: tuple[ImageInputs, ...]

    @property
    def length(self) -> int:
        return int(self.token_ids.shape[0])


@dataclass(frozen=True, slots=True)
class Pack:
    """Segments that share one forward and backward. `is_filler` packs have weight 0 and only keep ranks in step."""

    segments: tuple[Segment, ...]
    is_filler: bool = False

    @property
    def num_tokens(self) -> int:
        return sum(segment.length for segment in self.segments)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one optimizer step does; made on rank 0 and broadcast.

    Example: `StepPlan(step=7, channel="A", num_packs=2, policy_version=None)`
    """

    step: int
    channel: str
    num_packs: int
    policy_version: int | None = None
