"""Prompts of different lengths and image sizes as one left-padded batch, each row with the positions that it would have alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coordexp.types.sequences import PromptInputs


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Left-padded prompts as a Qwen3-VL model takes them."""

    input_ids: Tensor
    """[B, P]"""
    attention_mask: Tensor
    """[B, P]: 0 over the padding."""
    position_ids: Tensor
    """[4, B, P]: place in the row, then the time, height and width of rope."""
    next_position: Tensor
    """[4, B, 1]: what the first generated token gets; each further token is one on in all four."""
    image_inputs: dict[str, Tensor]
    """`pixel_values` [all patches, features] and `image_grid_thw` [images, 3]; empty without images."""


def collate_prompts(prompts: Sequence[PromptInputs], *, model: Any, pad_id: int) -> PromptBatch:
    """Pad on the left with `pad_id` and move to the device of `model`, whose own function gives the rope positions."""
    device = next(model.parameters()).device
    length = max(len(prompt.token_ids) for prompt in prompts)
    ids = np.full((len(prompts), length), pad_id, dtype=np.int64)
    mask = np.zeros((len(prompts), length), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt.token_ids) :] = prompt.token_ids
        mask[row, length - len(prompt.token_ids) :] = 1
    input_ids, attention_mask = torch.from_numpy(ids), torch.from_numpy(mask)
    image_inputs = _image_inputs(prompts)
    position_ids, next_position = _positions(model, input_ids, attention_mask, image_inputs.get("image_grid_thw"))
    return PromptBatch(
        input_ids=input_ids.to(device),
        attention_mask=attention_mask.to(device),
        position_ids=position_ids.to(device),
        next_position=next_position.to(device),
        image_inputs={name: tensor.to(device) for name, tensor in image_inputs.items()},
    )


def _image_inputs(prompts: Sequence[PromptInputs]) -> dict[str, Tensor]:
    images = [image for prompt in prompts for image in prompt.images]
    if not images:
        return {}
    pixels = torch.from_numpy(np.concatenate([image.pixel_values for image in images]))
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([image.grid_thw for image in images])}


def _positions(model: Any, input_ids: Tensor, attention_mask: Tensor, grid_thw: Tensor | None) -> tuple[Tensor, Tensor]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_image = (input_ids == model.config.image_token_id) & attention_mask.bool()
    rope, _ = base.model.get_rope_index(input_ids, image_grid_thw=grid_thw, attention_mask=attention_mask, mm_token_type_ids=is_image.int())
    text = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
    positions = torch.cat((text[None], rope))
    # after an image, rope goes on from the largest of the three axes, which is not always the last token's
    after_rope = rope.amax(dim=(0, 2))[None, :, None].expand(3, -1, -1) + 1
    after_text = attention_mask.sum(dim=-1)[None, :, None]
    return positions, torch.cat((after_text, after_rope))
