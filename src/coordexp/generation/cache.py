"""Key and value memory for decoding that is written in place. The stock dynamic cache copies everything that it holds at every token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, DynamicLayer

_HEADROOM = 64
"""Tokens of spare room at least; more when the memory grows by half."""


KeysAndValues: TypeAlias = tuple[Tensor, Tensor]
"""Of one layer, each [rows, heads, tokens, head_dim]."""


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

    def replace(self, keys: Tensor, values: Tensor, *, length: int) -> None:
        """Make the first `length` tokens of these the contents, the rest spare room."""
        self._key_room, self._value_room = keys, values
        self._show(length)

    def drop_last(self, count: int) -> None:
        """Forget the last `count` tokens."""
        self._show(self._length - count)

    def contents(self) -> KeysAndValues:
        return self._key_room[:, :, : self._length], self._value_room[:, :, : self._length]

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        """Make the first `length` tokens the contents."""
        self._length = length
        keys, values = self._key_room[:, :, :length], self._value_room[:, :, :length]
        self.keys, self.values = keys, values
        return keys, values

    def _reserve(self, key_states: Tensor, value_states: Tensor, *, capacity: int) -> None:
        self._key_room = key_states.new_empty(*key_states.shape[:2], capacity, key_states.shape[-1])
        self._value_room = value_states.new_empty(*value_states.shape[:2], capacity, value_states.shape[-1])


def joined(mine: Iterable[KeysAndValues], theirs: Iterable[KeysAndValues], *, order: Tensor, length: int, spare: int = 0) -> Iterator[KeysAndValues]:
    """Of each layer, the rows `order` [N] of `mine` followed by `theirs`, [N, heads, length + spare, head_dim], all of them ending at the place `length`.

    What lies more than `length` before the end is cut off: the caller knows that nothing looks at it. What is new in front is zero, the spare room anything.
    """
    join = partial(join_rows, order=order, length=length, spare=spare, dim=2)
    for (my_keys, my_values), (their_keys, their_values) in zip(mine, theirs, strict=True):
        yield join(my_keys, their_keys), join(my_values, their_values)


def join_rows(mine: Tensor, theirs: Tensor, *, order: Tensor, length: int, dim: int, spare: int = 0) -> Tensor:
    """Of two tensors with rows first and tokens in the dimension `dim`; see `joined`."""
    room = mine.new_empty(len(order), *mine.shape[1:dim], length + spare, *mine.shape[dim + 1 :])
    # a weight of 0 times whatever lies in fresh memory can be NaN
    room.narrow(dim, 0, length).zero_()
    is_mine = order < len(mine)
    for part, places, rows in ((mine, is_mine, order[is_mine]), (theirs, ~is_mine, order[~is_mine] - len(mine))):
        width = min(length, part.shape[dim])
        room.narrow(dim, length - width, width)[places] = part.narrow(dim, part.shape[dim] - width, width)[rows]
    return room


class DecodingCache(Cache):
    """One `GrowingLayer` for each layer of the text model, and ways to drop the rows that have ended and to take in others."""

    def __init__(self, config: PretrainedConfig) -> None:
        self._growing = [GrowingLayer() for _ in range(config.get_text_config().num_hidden_layers)]
        super().__init__(layers=[*self._growing])

    def contents(self) -> Iterator[KeysAndValues]:
        """Of each layer."""
        for layer in self._growing:
            yield layer.contents()

    def keep_rows(self, rows: Tensor) -> None:
        """Keep the batch rows with these indices, in this order."""
        for layer in self._growing:
            layer.batch_select_indices(rows)

    def drop_last(self, count: int) -> None:
        """Forget the last `count` tokens of every row."""
        for layer in self._growing:
            layer.drop_last(count)

    def join(self, other: DecodingCache, *, order: Tensor, length: int) -> None:
        """Go on with the rows `order` of these followed by those of `other`; see `joined`."""
        rooms = joined(self.contents(), other.contents(), order=order, length=length, spare=_HEADROOM)
        for layer, (keys, values) in zip(self._growing, rooms, strict=True):
            layer.replace(keys, values, length=length)
