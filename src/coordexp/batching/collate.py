"""Packs to tensors: torch starts here. What the model takes and what only losses and diagnostics read are two different things from here on.

`model_inputs` is checked against the names that Qwen3-VL's forward takes, so an extra can never be passed to it by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from coordexp.batching.rope import rope_positions
from coordexp.types.sequences import Pack, Provenance, Role, Segment

MODEL_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "pixel_values", "image_grid_thw", "logits_to_keep"})

TOKEN_TYPES = ("format", "desc", "coord")
"""Index = value in `Supervision.text_types` and in the extra `token_types`."""
_TYPE_OF_ROLE = np.zeros(len(Role), dtype=np.int64)
_TYPE_OF_ROLE[Role.DESC], _TYPE_OF_ROLE[Role.COORD] = 1, 2

_PER_TOKEN = ("token_ids", "ce_weight", "roles")
_REQUIRED = ("sample_id", "dataset", *_PER_TOKEN, "slots", "images")


class BatchContractError(ValueError):
    """A segment or batch that lacks what its reader needs: a mistake of the program, not of the user."""


@dataclass(frozen=True, slots=True)
class Supervision:
    """What is to be predicted, in flat rows. Row r means `logits.flatten(0, 1)[r]` where logits are those of the kept columns; the causal shift is done."""

    text_rows: Tensor
    """Long[N]: rows that predict a token with `ce_weight` > 0."""
    text_targets: Tensor
    """Long[N], vocabulary ids."""
    text_weight: Tensor
    """Float[N]"""
    text_types: Tensor
    """Long[N], index into `TOKEN_TYPES`."""
    coord_rows: Tensor
    """Long[M]: rows that predict a coordinate of a slot."""
    coord_bins: Tensor
    """Float[M]: real-valued target bins."""
    coord_weight: Tensor
    """Float[M]"""
    coord_positions: Tensor
    """Long[M]: where the coordinates themselves stand, flat in `input_ids`."""
    is_prefix_coord: Tensor
    """Bool[M]: the coordinate belongs to a matched object of the model's own answer."""


@dataclass(frozen=True, slots=True)
class PackBatch:
    """One forward: the model's inputs, what it should predict, and what only diagnostics read."""

    model_inputs: dict[str, Tensor]
    supervision: Supervision
    extras: dict[str, Any]
    """`sample_ids`, `dataset_labels`, `dataset_segments`, `pack_num_samples`, `token_types`."""
    is_filler: bool = False
    is_packed: bool = False
    """One row of several samples (`PackedCollator`)."""
    num_skipped: int = 0
    """Samples that were left out on the way to this forward, because they cannot be read."""

    def __post_init__(self) -> None:
        foreign = self.model_inputs.keys() - MODEL_INPUTS
        if foreign:
            raise BatchContractError(f"{sorted(foreign)} must not reach the model: put it into the extras of the batch")
        if self.is_packed:
            self._check_packed()

    def _check_packed(self) -> None:
        """The model tells samples of a row apart by positions that restart, in a fourth row of positions, and only when there is no mask: it fails silently."""
        if "attention_mask" in self.model_inputs:
            raise BatchContractError("a packed row must have no attention mask: with one, even of ones, samples see the samples before them")
        positions, ids = self.model_inputs.get("position_ids"), self.model_inputs["input_ids"]
        if positions is None or tuple(positions.shape) != (4, 1, ids.shape[1]):
            found = None if positions is None else tuple(positions.shape)
            raise BatchContractError(f"a packed row needs position_ids of shape (4, 1, {ids.shape[1]}), not {found}: with 3 rows samples see each other")

    def extra(self, name: str, *, reader: str) -> Any:
        """The extra `name`.

        Raises:
            BatchContractError: no collator attached it.
        """
        if name not in self.extras:
            raise BatchContractError(f"{reader} needs the batch extra '{name}', which is missing for samples {list(self.extras.get('sample_ids', ()))}")
        return self.extras[name]

    def to(self, device: torch.device) -> PackBatch:
        """The same batch with its tensors on `device`."""
        if all(value.device == device for value in self.model_inputs.values()):
            return self
        supervision = Supervision(**{field.name: getattr(self.supervision, field.name).to(device) for field in fields(Supervision)})
        return replace(self, model_inputs={name: value.to(device) for name, value in self.model_inputs.items()}, supervision=supervision)


class Collator(Protocol):
    """Segments of one forward to tensors."""

    def __call__(self, pack: Pack) -> PackBatch: ...


@dataclass(frozen=True, slots=True)
class Placed:
    """A segment and where it stands in the tensors of a forward."""

    segment: Segment
    row: int
    start: int = 0
    """Column of its first token."""


@dataclass(frozen=True, slots=True)
class PaddedCollator:
    """One row for each segment, padded on the right to the longest.

    Example: `PaddedCollator(pad_token_id=1, image_token_id=4, merge_size=2)(pack).model_inputs["input_ids"].shape == (16, 204)`
    """

    pad_token_id: int
    image_token_id: int
    merge_size: int

    def __call__(self, pack: Pack) -> PackBatch:
        """Tensors of one pack.

        Raises:
            BatchContractError: a required field of a segment is missing or has the wrong length; names field, sample and collator.
        """
        for segment in pack.segments:
            check_segment(segment, collator=type(self).__name__)
        width = max(segment.length for segment in pack.segments)
        placed = [Placed(segment, row) for row, segment in enumerate(pack.segments)]
        supervision, columns = supervise(placed, width=width, weight=0.0 if pack.is_filler else 1.0)
        inputs = {**self._text_inputs(pack.segments, width), **image_inputs(pack.segments), "logits_to_keep": columns}
        extras = describe_samples(placed, shape=(len(placed), width))
        return PackBatch(model_inputs=inputs, supervision=supervision, extras=extras, is_filler=pack.is_filler)

    def _text_inputs(self, segments: Sequence[Segment], width: int) -> dict[str, Tensor]:
        ids = np.full((len(segments), width), self.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(segments), width), dtype=np.int64)
        positions = np.zeros((4, len(segments), width), dtype=np.int64)
        positions[0] = np.arange(width)
        for row, segment in enumerate(segments):
            ids[row, : segment.length] = segment.token_ids
            mask[row, : segment.length] = 1
            grids = [image.grid_thw for image in segment.images]
            positions[:, row, : segment.length] = rope_positions(segment.token_ids, grids, image_token_id=self.image_token_id, merge_size=self.merge_size)
        inputs = {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(positions)}
        # equal lengths need no mask, and without one the fast causal kernels are taken
        if not mask.all():
            inputs["attention_mask"] = torch.from_numpy(mask)
        return inputs


def collate_packs(packs: Sequence[Pack], collator: Collator) -> tuple[PackBatch, ...]:
    """The batches of one optimizer step on one rank, in order."""
    return tuple(collator(pack) for pack in packs)


def check_segment(segment: Segment, *, collator: str) -> None:
    """Raise `BatchContractError` unless `segment` has every required field, and one entry for each token where one is due."""
    for name in _REQUIRED:
        if getattr(segment, name, None) is None:
            raise BatchContractError(f"{collator}: sample '{segment.sample_id}': the required field '{name}' is missing")
    for name in _PER_TOKEN:
        if len(getattr(segment, name)) != segment.length:
            raise BatchContractError(
                f"{collator}: sample '{segment.sample_id}': '{name}' has {len(getattr(segment, name))} entries for {segment.length} tokens"
            )


def supervise(placed: Sequence[Placed], *, width: int, weight: float) -> tuple[Supervision, Tensor]:
    """(supervision, columns of the logits to keep, ascending) for rows of `width` tokens. The token at position p is predicted by column p - 1."""
    segments = [item.segment for item in placed]
    # the first token of a segment is predicted by nothing: in a packed row the column before it belongs to another sample
    text = [np.flatnonzero(segment.ce_weight[1:] > 0) for segment in segments]
    coord = [np.array([p - 1 for slot in segment.slots for p in slot.positions], dtype=np.int64) for segment in segments]
    starts = np.array([item.start for item in placed])
    used = [start + part for parts in (text, coord) for start, part in zip(starts, parts, strict=True)]
    # a batch without any supervision still needs a row that anchors the graph
    columns = np.unique(np.concatenate(used)) if any(len(part) for part in used) else np.zeros(1, dtype=np.int64)

    def rows(parts: Sequence[np.ndarray]) -> Tensor:
        flat = [item.row * len(columns) + np.searchsorted(columns, item.start + part) for item, part in zip(placed, parts, strict=True)]
        return torch.from_numpy(np.concatenate(flat).astype(np.int64))

    def gather(values: Sequence[np.ndarray], dtype: type[np.generic]) -> Tensor:
        return torch.from_numpy(np.concatenate([value[part + 1] for value, part in zip(values, text, strict=True)]).astype(dtype))

    slots = [(slot, segment) for segment in segments for slot in segment.slots]
    supervision = Supervision(
        text_rows=rows(text),
        text_targets=gather([segment.token_ids for segment in segments], np.int64),
        text_weight=gather([segment.ce_weight for segment in segments], np.float32) * weight,
        text_types=gather([_TYPE_OF_ROLE[segment.roles] for segment in segments], np.int64),
        coord_rows=rows(coord),
        coord_bins=torch.tensor([b for slot, _ in slots for b in slot.target_bins], dtype=torch.float32),
        coord_weight=torch.tensor([slot.weight for slot, _ in slots for _ in slot.positions], dtype=torch.float32) * weight,
        coord_positions=torch.tensor([item.row * width + item.start + p for item in placed for slot in item.segment.slots for p in slot.positions]).long(),
        is_prefix_coord=torch.tensor([slot.provenance is Provenance.MATCHED for slot, _ in slots for _ in slot.positions]).bool(),
    )
    return supervision, torch.from_numpy(columns.astype(np.int64))


def image_inputs(segments: Sequence[Segment]) -> dict[str, Tensor]:
    """The images of all segments, in order."""
    images = [image for segment in segments for image in segment.images]
    if not images:
        return {}
    pixels = torch.from_numpy(np.concatenate([image.pixel_values for image in images]))
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([image.grid_thw for image in images], dtype=torch.long)}


def describe_samples(placed: Sequence[Placed], *, shape: tuple[int, int]) -> dict[str, Any]:
    """The extras of a forward whose ids have this shape: who stands where, and of which type each token is (-1: prompt or padding)."""
    types = np.full(shape, -1, dtype=np.int8)
    for item in placed:
        roles = item.segment.roles
        types[item.row, item.start : item.start + item.segment.length] = np.where(roles < 0, -1, _TYPE_OF_ROLE[roles])
    return {
        "sample_ids": tuple(item.segment.sample_id for item in placed),
        "dataset_labels": tuple(item.segment.dataset for item in placed),
        "dataset_segments": tuple((item.row, item.start, item.start + item.segment.length) for item in placed),
        "pack_num_samples": len(placed),
        "token_types": types,
    }
