"""Qwen3-VL's forward for batches of equal images and equal lengths: same weights, same numbers, fewer and larger operations than the general one."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel, apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids


class FastVision:
    """The vision tower for images of one size. Attention runs over [B, heads, P, d] at once, the patch convolution is a linear layer."""

    def __init__(self, visual: Qwen3VLVisionModel, *, grid: tuple[int, int]) -> None:
        self._visual = visual
        grid_thw = torch.tensor([[1, *grid]])
        merge = visual.spatial_merge_size
        self._indices, self._weights = get_vision_interpolation_indices_and_weights(
            grid_thw, num_grid_per_side=visual.num_grid_per_side, mode="bilinear", align_corners=True, spatial_merge_size=merge, kwargs={}
        )
        positions = get_vision_position_ids(grid_thw, merge, kwargs={})
        self._cos, self._sin = visual.rotary_pos_emb(torch.zeros(1), positions)

    def __call__(self, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Patches [B, P, D] to merged features [B, M, H] and one such tensor for each deepstack level."""
        visual = self._visual
        size, num_patches, _ = patches.shape
        projection = visual.patch_embed.proj
        hidden = F.linear(patches, projection.weight.flatten(1), projection.bias)
        hidden = hidden + (visual.pos_embed(self._indices) * self._weights[:, :, None]).sum(1)
        deepstack: list[Tensor] = []
        for number, block in enumerate(visual.blocks):
            hidden = hidden + self._attend(block.attn, block.norm1(hidden))  # pyright: ignore[reportArgumentType, reportCallIssue]
            hidden = hidden + block.mlp(block.norm2(hidden))  # pyright: ignore[reportCallIssue]
            if number in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[list(visual.deepstack_visual_indexes).index(number)]
                deepstack.append(merger(hidden.reshape(size * num_patches, -1)).view(size, -1, visual.config.out_hidden_size))
        merged = visual.merger(hidden.reshape(size * num_patches, -1))
        return merged.view(size, -1, visual.config.out_hidden_size), deepstack

    def _attend(self, attention: torch.nn.Module, hidden: Tensor) -> Tensor:
        size, length, width = hidden.shape
        qkv = attention.qkv(hidden).view(size, length, 3, attention.num_heads, -1)  # type: ignore[operator]
        query, key = apply_rotary_pos_emb_vision(qkv[:, :, 0], qkv[:, :, 1], self._cos, self._sin)
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), qkv[:, :, 2].transpose(1, 2))
        return attention.proj(mixed.transpose(1, 2).reshape(size, length, width))  # type: ignore[operator]


class FastModel:
    """The whole model for batches that share one prompt, one image size and one response length."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, *, prompt_ids: Tensor, grid: tuple[int, int]) -> None:
        self.model = model
        self.vision = FastVision(cast(Qwen3VLVisionModel, model.model.visual), grid=grid)
        self.prompt_ids = prompt_ids
        """[P] with the image placeholders expanded."""
        self._grid_thw = torch.tensor([[1, *grid]])
        at = torch.nonzero(prompt_ids == model.config.image_token_id).flatten()
        self._image_start, self._image_end = int(at[0]), int(at[-1]) + 1

    def __call__(self, patches: Tensor, response_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [B, P, D] and response ids [B, R] to logits that predict the response [B, R, V], and merged image features [B, M, H]."""
        size = response_ids.shape[0]
        ids = torch.cat((self.prompt_ids.expand(size, -1), response_ids), dim=1)
        features, deepstack = self.vision(patches)
        embedded = self.model.get_input_embeddings()(ids)
        embedded = torch.cat((embedded[:, : self._image_start], features, embedded[:, self._image_end :]), dim=1)
        is_image = ids == self.model.config.image_token_id
        positions, _ = self.model.model.get_rope_index(ids[:1], mm_token_type_ids=is_image[:1].int(), image_grid_thw=self._grid_thw)  # pyright: ignore[reportArgumentType]
        hidden = self.model.model.language_model(
            inputs_embeds=embedded,
            position_ids=positions.expand(-1, size, -1),
            visual_pos_masks=is_image,
            deepstack_visual_embeds=[level.flatten(0, 1) for level in deepstack],
            use_cache=False,
        ).last_hidden_state
        start = len(self.prompt_ids) - 1
        return self.model.lm_head(hidden[:, start:-1]), features
