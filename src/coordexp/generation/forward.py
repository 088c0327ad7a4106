"""A model that goes on from prompts, with its memory: one token for each row at a time, rows dropped, doubled, put in another order or joined by new ones.

The memory of a row ends where that of every other row ends; what lies before its beginning is masked. Keys are stored with their rope positions, so
that a row may be moved along the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coordexp.generation.cache import DecodingCache
from coordexp.generation.prompt_batch import PromptBatch


def takes_key_mask(model: Any) -> bool:
    """Sdpa takes a mask over the keys as it is; other kernels build what they need from the padding mask."""
    return model.config.get_text_config()._attn_implementation == "sdpa"


def prefill(model: Any, batch: PromptBatch) -> tuple[DecodingCache, Tensor]:
    """The memory after the prompts, and float32 logits [rows, vocabulary] of the first new token of each."""
    cache = DecodingCache(model.config)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids, **batch.image_inputs}
    return cache, model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()


class CachedForward:
    """Call `admit` first, then `advance` for every new token. Logits are float32 [rows, vocabulary], of the last position."""

    def __init__(self, model: Any) -> None:
        self._model, self._takes_key_mask = model, takes_key_mask(model)

    def admit(self, is_running: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Take in new prompts [B]; of the N rows that are there, those go on that are running (bool [N]; N = 0 to begin with).

        Returns:
            The rows that there are now, by their former places, the new ones as N, N + 1, …; and logits [B, vocabulary] of the first token of the new ones.
        """
        cache, logits = prefill(self._model, batch)
        new = torch.arange(len(logits), device=logits.device)
        prompt_length, lengths = batch.input_ids.shape[1], batch.attention_mask.sum(dim=1)
        if len(is_running) == 0:
            self._cache, self._length, self._lengths, self._position = cache, prompt_length, lengths, batch.next_position
            return new, logits
        order = torch.cat((is_running.nonzero().squeeze(-1), len(is_running) + new))
        self._length = max(prompt_length, 0, *self._lengths[is_running].tolist())
        self._cache.join(cache, order=order, length=self._length)
        self._lengths = torch.cat((self._lengths, lengths))[order]
        self._position = torch.cat((self._position, batch.next_position), dim=1)[:, order]
        return order, logits

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with the rows of these indices [N], in this order; an index may come more than once."""
        self._cache.keep_rows(rows)
        self._lengths, self._position = self._lengths[rows], self._position[:, rows]

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits after the next token of each row, ids [rows]."""
        self._length, self._lengths = self._length + 1, self._lengths + 1
        places = torch.arange(self._length, device=tokens.device)
        is_used = places >= self._length - self._lengths[:, None]
        attention_mask = is_used[:, None, None, :] if self._takes_key_mask else is_used.long()
        position, self._position = self._position, self._position + 1
        inputs = {"input_ids": tokens[:, None], "attention_mask": attention_mask, "position_ids": position}
        return self._model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
