"""Key and value memory for decoding that is written in place. The stock dynamic cache copies everything that it holds at every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

_HEADROOM = 256
"""Tokens of spare room at the first allocation; later the room grows by half."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one attention layer, [batch, heads, length, head_dim], as views of a larger buffer.

    What lies behind `length` is never read: every update returns the filled part only.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._reserve(key_states, value_states, capacity=key_states.shape[-2] + _HEADROOM)
        self._length = 0
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self._length, self._length + key_states.shape[-2]
        if end > self._key_room.shape[-2]:
            old_keys, old_values = self._key_room, self._value_room
            self._reserve(key_states, value_states, capacity=end + max(_HEADROOM, end // 2))
            self._key_room[:, :, :start] = old_keys[:, :, :start]
            self._value_room[:, :, :start] = old_values[:, :, :start]
        self._key_room[:, :, start:end] = key_states
        self._value_room[:, :, start:end] = value_states
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._key_room, self._value_room = self._key_room[indices], self._value_room[indices]
        self._show(self._length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        """Make the first `length` tokens the contents."""
        self._length = length
        keys, values = self._key_room[:, :, :length], self._value_room[:, :, :length]
        self.keys, self.values = keys, values
        return keys, values

    def _reserve(self, key_states: Tensor, value_states: Tensor, *, capacity: int) -> None:
        self._key_room = key_states.new_empty(*key_states.shape[:2], capacity, key_states.shape[-1])
        self._value_room = value_states.new_empty(*value_states.shape[:2], capacity, value_states.shape[-1])


class DecodingCache(Cache):
    """One `GrowingLayer` for each layer of the text model, and a way to drop the rows that have ended."""

    def __init__(self, config: PretrainedConfig) -> None:
        self._growing = [GrowingLayer() for _ in range(config.get_text_config().num_hidden_layers)]
        super().__init__(layers=[*self._growing])

    def keep_rows(self, rows: Tensor) -> None:
        """Keep the batch rows with these indices, in this order."""
        for layer in self._growing:
            layer.batch_select_indices(rows)
