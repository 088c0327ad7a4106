"""A pack as ONE row without padding: samples stand one behind the other and do not see each other.

Qwen3-VL tells the samples of a row apart by the first of four rows of positions, which restarts at 0 with each of them, and only when it gets neither a mask
nor a cache. With a cache, with a mask of ones, or with three rows of positions the second sample silently attends to the first; `PackBatch` refuses such
inputs and the trainer refuses a forward with a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from coordexp.batching.collate import BatchContractError, PackBatch, Placed, check_segment, describe_samples, image_inputs, supervise
from coordexp.batching.rope import rope_positions
from coordexp.types.sequences import Pack


@dataclass(frozen=True, slots=True)
class PackedCollator:
    """One row for all segments of a pack.

    Example: `PackedCollator(image_token_id=4, merge_size=2, capacity=4096)(pack).model_inputs["position_ids"].shape == (4, 1, 4087)`
    """

    image_token_id: int
    merge_size: int
    capacity: int
    """Tokens of a row, at most."""

    def __call__(self, pack: Pack) -> PackBatch:
        """Tensors of one pack: input_ids [1, T], position_ids [4, 1, T], the images one behind the other, no attention mask.

        Raises:
            BatchContractError: a segment is incomplete (see `PaddedCollator`), or the row is longer than its capacity.
        """
        for segment in pack.segments:
            check_segment(segment, collator=type(self).__name__)
        if pack.num_tokens > self.capacity:
            names = ", ".join(segment.sample_id for segment in pack.segments)
            raise BatchContractError(f"a row of {pack.num_tokens} tokens (samples {names}) was planned for {self.capacity}")
        starts = np.cumsum([0, *(segment.length for segment in pack.segments)]).tolist()
        placed = [Placed(segment, 0, start) for segment, start in zip(pack.segments, starts, strict=False)]
        supervision, columns = supervise(placed, width=pack.num_tokens, weight=0.0 if pack.is_filler else 1.0)
        positions = [
            rope_positions(segment.token_ids, [image.grid_thw for image in segment.images], image_token_id=self.image_token_id, merge_size=self.merge_size)
            for segment in pack.segments
        ]
        inputs = {
            "input_ids": torch.from_numpy(np.concatenate([segment.token_ids for segment in pack.segments]).astype(np.int64))[None],
            "position_ids": torch.from_numpy(np.concatenate(positions, axis=1).astype(np.int64))[:, None],
            **image_inputs(pack.segments),
            "logits_to_keep": columns,
        }
        extras = describe_samples(placed, shape=(1, pack.num_tokens))
        return PackBatch(model_inputs=inputs, supervision=supervision, extras=extras, is_filler=pack.is_filler, is_packed=True)
