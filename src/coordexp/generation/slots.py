"""Decoding with static memory: a fixed number of places for rows and for tokens, so that one step of the model is one CUDA graph.

With some tens of rows a step of a model is a thousand small kernels, and most of its time goes into starting them one by one. Memory that keeps its shape
and address lets CUDA replay the whole step at once. A row that has ended stays in its place until a new prompt takes it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from coordexp.generation.cache import KeysAndValues, joined
from coordexp.generation.forward import prefill
from coordexp.generation.prompt_batch import PromptBatch

_ROOM = 512
"""Places for tokens come in multiples of this: more room needs a new graph, and every step looks at the whole room."""
_NUM_WARMUP_STEPS = 2
"""Kernels choose their work space before they are recorded."""


class SlotForward:
    """What `CachedForward` is to `Decoding`, with memory that the next prompts use again. For attention that takes a mask over the keys (sdpa).

    The weights must stay where they are. On a CPU the steps are not recorded, and are otherwise the same.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._memory: SlotMemory | None = None
        self._end = 0

    def admit(self, is_running: Tensor, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """See `CachedForward.admit`. Rows keep their places, new ones take those of rows that have ended."""
        cache, logits = prefill(self._model, batch)
        new = torch.arange(len(logits), device=logits.device)
        prompt_length, lengths, position = batch.input_ids.shape[1], batch.attention_mask.sum(dim=1), batch.next_position
        if len(is_running) == 0:
            self._write(cache.contents(), lengths=lengths, position=position, end=prompt_length)
            return new, logits
        memory = self._memory
        assert memory is not None, "rows that run have a memory"
        order = torch.arange(len(is_running), device=logits.device)
        order[(~is_running).nonzero().squeeze(-1)[: len(new)]] = len(is_running) + new
        end = max(prompt_length, 0, *memory.lengths[is_running].tolist())
        self._write(
            joined(memory.contents(self._end), cache.contents(), order=order, length=end),
            lengths=torch.cat((memory.lengths, lengths))[order].clamp(max=end),
            position=torch.cat((memory.position, position), dim=1)[:, order],
            end=end,
        )
        return order, logits

    def advance(self, tokens: Tensor) -> Tensor:
        """See `CachedForward.advance`; the logits are valid until the next call."""
        memory = self._memory
        assert memory is not None, "admit comes first"
        if self._end == memory.room:
            memory = self._write(memory.contents(self._end), lengths=memory.lengths, position=memory.position, end=self._end)
        self._end += 1
        return memory.step(tokens)

    def _write(self, contents: Iterable[KeysAndValues], *, lengths: Tensor, position: Tensor, end: int) -> SlotMemory:
        """Make these rows, which end at `end`, the contents, in the memory that is there when it is large enough."""
        target = self._memory
        if target is None or target.num_slots != len(lengths) or target.room <= end:
            target = SlotMemory(self._model, num_slots=len(lengths), room=(end // _ROOM + 1) * _ROOM, device=lengths.device)
        target.write(contents, lengths=lengths, position=position, end=end)
        self._memory, self._end = target, end
        return target


class SlotMemory:
    """Keys and values of all layers and the state of a step, in tensors that never move, and the recorded step."""

    def __init__(self, model: Any, *, num_slots: int, room: int, device: torch.device) -> None:
        self._model, self.num_slots, self.room = model, num_slots, room
        self._tokens = torch.zeros(num_slots, 1, dtype=torch.long, device=device)
        self._end = torch.zeros(1, dtype=torch.long, device=device)
        self.position = torch.zeros(4, num_slots, 1, dtype=torch.long, device=device)
        """[4, slots, 1] of the next token, as in `PromptBatch.next_position`."""
        self.lengths = torch.zeros(num_slots, dtype=torch.long, device=device)
        """[slots] tokens of each row."""
        self._places = torch.arange(room, device=device)
        self._layers = [SlotLayer(num_slots, room=room, end=self._end) for _ in range(model.config.get_text_config().num_hidden_layers)]
        self._cache = Cache(layers=[*self._layers])
        self._graph: torch.cuda.CUDAGraph | None = None
        self._is_recordable = device.type == "cuda"

    def contents(self, end: int) -> Iterator[KeysAndValues]:
        """Of each layer, up to the place `end`."""
        for layer in self._layers:
            keys, values = layer.whole
            yield keys[:, :, :end], values[:, :, :end]

    def write(self, contents: Iterable[KeysAndValues], *, lengths: Tensor, position: Tensor, end: int) -> None:
        """Take over rows whose last token is at the place `end - 1`."""
        for layer, (keys, values) in zip(self._layers, contents, strict=True):
            layer.write(keys, values)
        self.lengths.copy_(lengths)
        self.position.copy_(position)
        self._end.fill_(end)

    def step(self, tokens: Tensor) -> Tensor:
        """Logits [slots, vocabulary] after these tokens [slots]; valid until the next step."""
        self._tokens.copy_(tokens[:, None])
        if self._is_recordable and self._graph is None:
            self._record()
        if self._graph is None:
            return self._run()
        self._graph.replay()
        return self._logits

    def _run(self) -> Tensor:
        is_used = (self._places <= self._end) & (self._places >= self._end - self.lengths[:, None])
        inputs = {"input_ids": self._tokens, "attention_mask": is_used[:, None, None, :], "position_ids": self.position}
        logits = self._model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()
        for counter in self._counters:
            counter.add_(1)
        return logits

    def _record(self) -> None:
        """What the trial steps write lies at places that are written again before anything looks at them; the counters are put back."""
        before = [counter.clone() for counter in self._counters]
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for _ in range(_NUM_WARMUP_STEPS):
                    self._run()
                    self._restore(before)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                self._logits = self._run()
            self._graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._is_recordable = False
            warnings.warn(f"a step of this model cannot be recorded as a CUDA graph; generation goes on without one, and is slower: {error}", stacklevel=2)
        self._restore(before)

    @property
    def _counters(self) -> tuple[Tensor, ...]:
        return self.position, self.lengths, self._end

    def _restore(self, before: list[Tensor]) -> None:
        for counter, value in zip(self._counters, before, strict=True):
            counter.copy_(value)


class SlotLayer(DynamicLayer):
    """Keys and values of one layer, [slots, heads, room, head_dim]; new ones are written at the place that `end` [1] says."""

    def __init__(self, num_slots: int, *, room: int, end: Tensor) -> None:
        super().__init__()
        self._num_slots, self._room, self._end = num_slots, room, end

    @property
    def whole(self) -> KeysAndValues:
        """The room, filled or not."""
        assert self.keys is not None, "written first"
        assert self.values is not None
        return self.keys, self.values

    def write(self, keys: Tensor, values: Tensor) -> None:
        """The first places; the room is made when first written to."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        for room, states in zip(self.whole, (keys, values), strict=True):
            room[:, :, : states.shape[2]] = states

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        # zeros: a weight of 0 times whatever lies in fresh memory can be NaN
        self.keys, self.values = (states.new_zeros(self._num_slots, states.shape[1], self._room, states.shape[3]) for states in (key_states, value_states))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> KeysAndValues:
        keys, values = self.whole
        keys.index_copy_(2, self._end, key_states)
        values.index_copy_(2, self._end, value_states)
        return keys, values
