"""A model that goes on from a batch of prompts, with its memory: one token for each row at a time, rows dropped, doubled or put in another order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coordexp.generation.cache import DecodingCache
from coordexp.generation.prompt_batch import PromptBatch


class CachedForward:
    """Call `prefill` once, then `advance` for every new token. Logits are float32 [rows, vocabulary], of the last position."""

    def __init__(self, model: Any, batch: PromptBatch, *, max_new_tokens: int) -> None:
        self._model, self._batch = model, batch
        num_rows, self._prompt_length = batch.input_ids.shape
        generated = torch.ones(num_rows, max_new_tokens, dtype=torch.long, device=batch.input_ids.device)
        self._mask = torch.cat((batch.attention_mask, generated), dim=1)
        self._position = batch.next_position
        self._cache = DecodingCache(model.config)
        # sdpa takes a mask over the keys as it is; other kernels build what they need from the padding mask
        self._takes_key_mask = model.config.get_text_config()._attn_implementation == "sdpa"

    def prefill(self) -> Tensor:
        """Logits of the first new token."""
        batch = self._batch
        return self._logits(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, **batch.image_inputs)

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with the rows of these indices [N], in this order; an index may come more than once."""
        self._cache.keep_rows(rows)
        self._mask, self._position = self._mask[rows], self._position[:, rows]

    def advance(self, tokens: Tensor, *, step: int) -> Tensor:
        """Logits after the new token number `step` of each row, ids [rows]."""
        mask = self._mask[:, : self._prompt_length + step + 1]
        attention_mask = mask[:, None, None, :].bool() if self._takes_key_mask else mask
        return self._logits(input_ids=tokens[:, None], attention_mask=attention_mask, position_ids=self._position + step)

    def _logits(self, **inputs: Tensor) -> Tensor:
        return self._model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
