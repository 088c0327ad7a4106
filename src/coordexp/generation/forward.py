"""A model that goes on from prompts, with its memory: one token for each row at a time, rows dropped, doubled, put in another order or joined by new ones.

The memory of a row ends where that of every other row ends; what lies before its beginning is masked, and so are guesses that were wrong. Keys are stored
with their rope positions, so that a row may be moved along the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from coordexp.generation.cache import DecodingCache, join_rows
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
        new, is_used = torch.arange(len(logits), device=logits.device), batch.attention_mask.bool()
        if len(is_running) == 0:
            self._cache, self._is_used, self._position = cache, is_used, batch.next_position
            return new, logits
        order = torch.cat((is_running.nonzero().squeeze(-1), len(is_running) + new))
        lengths = self._is_used.shape[1] - self._is_used[is_running].int().argmax(dim=1)
        length = max(is_used.shape[1], 0, *lengths.tolist())
        self._cache.join(cache, order=order, length=length)
        self._is_used = join_rows(self._is_used, is_used, order=order, length=length, dim=1)
        self._position = torch.cat((self._position, batch.next_position), dim=1)[:, order]
        return order, logits

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with the rows of these indices [N], in this order; an index may come more than once."""
        self._cache.keep_rows(rows)
        self._is_used, self._position = self._is_used[rows], self._position[:, rows]

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits after the next token of each row, ids [rows]."""
        return self._run(tokens[:, None])[:, -1]

    def advance_with_guesses(self, tokens: Tensor, guesses: Tensor) -> Tensor:
        """Logits [rows, 1 + G, vocabulary] after the next token of each row and after each guess [rows, G] at those behind it.

        `keep_guesses` says which were right. For attention that takes a mask over the keys (sdpa).
        """
        assert self._takes_key_mask, "a wrong guess is masked"
        return self._run(torch.cat((tokens[:, None], guesses), dim=1))

    def keep_guesses(self, is_right: Tensor) -> None:
        """Of the last guesses keep these (bool [rows, G]), in each row the first ones or none. Places that no row keeps are given back."""
        num_guesses = is_right.shape[1]
        self._position = self._position - (num_guesses - is_right.sum(dim=1))[None, :, None]
        self._is_used[:, -num_guesses:] = is_right
        num_lost = num_guesses - int(is_right.any(dim=0).sum())
        self._cache.drop_last(num_lost)
        self._is_used = self._is_used[:, : self._is_used.shape[1] - num_lost]

    def _run(self, ids: Tensor) -> Tensor:
        """Logits [rows, new, vocabulary] after each of these tokens [rows, new]."""
        num_new = ids.shape[1]
        self._is_used = torch.cat((self._is_used, torch.ones_like(ids, dtype=torch.bool)), dim=1)
        attention_mask = self._is_used[:, None, None, :] if self._takes_key_mask else self._is_used.long()
        if num_new > 1:
            num_places = self._is_used.shape[1]
            attention_mask = attention_mask & torch.ones(num_new, num_places, dtype=torch.bool, device=ids.device).tril(num_places - num_new)
        position, self._position = self._position + torch.arange(num_new, device=ids.device), self._position + num_new
        inputs = {"input_ids": ids, "attention_mask": attention_mask, "position_ids": position}
        return self._model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=num_new).logits.float()
