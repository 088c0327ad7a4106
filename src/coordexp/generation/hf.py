"""Generation with a transformers model in this process.

Batches are padded on the left, with the attention mask and the Qwen3-VL rope positions of each row as if it were alone: a row's tokens do not depend on its
neighbours. Rows that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from coordexp.codec.pieces import decode_pieces
from coordexp.codec.serialize import END_TEXT
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.cache import DecodingCache
from coordexp.generation.prompt_batch import PromptBatch, collate_prompts
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.generation.sampling import TokenPicker
from coordexp.generation.trace import TraceRecorder
from coordexp.models.load import LoadedModel
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, TokenTrace

_COMPACT_BELOW = 0.75
"""Ended rows are taken out once less than this share still runs: dropping each at once would copy the cache too often."""


class HfBackend:
    """Batched generation with the model of a `LoadedModel`. Not for two threads at once.

    Example: `HfBackend(load_model(path), batch_size=16).generate(requests, GenerationSettings(max_new_tokens=512), with_trace=True)`
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 16) -> None:
        self._model: Any = loaded.model
        self._tokenizer: Any = loaded.tokenizer
        self.text_tokenizer = TextTokenizer.of(self._tokenizer)
        self._coord_vocab = loaded.coord_vocab
        self._batch_size = batch_size
        self._stop_ids = _stop_ids(self._model, self._tokenizer)
        parameter = next(self._model.parameters())
        self._info = BackendInfo(
            type="hf",
            checkpoint=str(loaded.path),
            attn_requested=loaded.attn_requested,
            attn_used=loaded.attn_used,
            dtype=str(parameter.dtype).removeprefix("torch."),
            device=str(parameter.device),
            determinism="strict",
        )

    @property
    def info(self) -> BackendInfo:
        return self._info

    def generate(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool = False) -> list[GenerationSample]:
        """See `GenerationBackend.generate`. Prompts of similar length share a batch.

        Raises:
            BackendError: out of memory, or beam search was asked for.
        """
        if settings.num_beams != 1:
            raise BackendError(f"the hf backend has no beam search (num_beams={settings.num_beams})", fix="set num_beams to 1")
        by_length = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt.token_ids))
        samples: dict[int, GenerationSample] = {}
        with self._ready():
            for start in range(0, len(by_length), self._batch_size):
                indices = by_length[start : start + self._batch_size]
                samples.update(zip(indices, self._generate_batch([requests[index] for index in indices], settings, with_trace=with_trace), strict=True))
        return [samples[index] for index in range(len(requests))]

    def close(self) -> None:
        self._model = None

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Evaluation mode without gradients, the former mode restored; out of memory as our own error."""
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode():
                yield
        except torch.OutOfMemoryError as error:
            raise BackendError("the device ran out of memory while generating", fix="lower the batch size or max_new_tokens") from error
        finally:
            self._model.train(was_training)

    def _generate_batch(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool) -> list[GenerationSample]:
        pad_id = self._tokenizer.pad_token_id
        batch = collate_prompts([request.prompt for request in requests], model=self._model, pad_id=self._stop_ids[0] if pad_id is None else pad_id)
        vocab_size = self._model.config.get_text_config().vocab_size
        size = {"vocab_size": vocab_size, "device": batch.input_ids.device}
        prompt_ids = [request.prompt.token_ids.tolist() for request in requests]
        picker = TokenPicker(settings, seeds=[request.seed for request in requests], prompt_ids=prompt_ids, **size)
        recorder = TraceRecorder(self._coord_vocab, num_rows=len(requests), num_steps=settings.max_new_tokens, **size) if with_trace else None
        decoding = Decoding(self._model, batch, picker=picker, recorder=recorder, stop_ids=self._stop_ids, max_new_tokens=settings.max_new_tokens)
        decoding.run()
        return [self._sample(decoding, row, request) for row, request in enumerate(requests)]

    def _sample(self, decoding: Decoding, row: int, request: GenerationRequest) -> GenerationSample:
        ids = decoding.response_ids(row)
        return GenerationSample(
            prompt_ids=tuple(request.prompt.token_ids.tolist()),
            response_ids=ids,
            text=decode_pieces(ids, tokenizer=self.text_tokenizer).text,
            finish_reason="stop" if decoding.is_stopped(row) else "length",
            seed=request.seed,
            trace=decoding.trace(row),
        )


class Decoding:
    """One batch from its prompts to the end of its last row. `run` once, then read the rows."""

    def __init__(
        self, model: Any, batch: PromptBatch, *, picker: TokenPicker, recorder: TraceRecorder | None, stop_ids: Sequence[int], max_new_tokens: int
    ) -> None:
        device, num_rows = batch.input_ids.device, batch.input_ids.shape[0]
        self._model, self._batch, self._picker, self._recorder = model, batch, picker, recorder
        self._stop_ids = torch.tensor(stop_ids, device=device)
        self._max_new_tokens = max_new_tokens
        self._tokens = torch.zeros(num_rows, max_new_tokens, dtype=torch.long, device=device)
        self._num_tokens = torch.full((num_rows,), max_new_tokens, device=device)
        self._cache = DecodingCache(model.config)
        # sdpa takes a mask over the keys as it is; other kernels build what they need from the padding mask
        self._takes_key_mask = model.config.get_text_config()._attn_implementation == "sdpa"

    def run(self) -> None:
        """Generate until every row has stopped or has `max_new_tokens`."""
        rows = torch.arange(self._tokens.shape[0], device=self._tokens.device)
        is_running = torch.ones_like(rows, dtype=torch.bool)
        generated = torch.ones(len(rows), self._max_new_tokens, dtype=torch.long, device=rows.device)
        mask, position = torch.cat((self._batch.attention_mask, generated), dim=1), self._batch.next_position
        logits = self._prefill()
        for step in range(self._max_new_tokens):
            tokens = self._pick(logits, rows=rows, step=step)
            is_running = is_running & ~self._is_stop(tokens)
            self._num_tokens[rows] = torch.where(is_running, self._num_tokens[rows], self._num_tokens[rows].clamp(max=step))
            num_running = int(is_running.sum())
            if num_running == 0 or step + 1 == self._max_new_tokens:
                break
            if num_running < _COMPACT_BELOW * len(rows):
                kept = is_running.nonzero().squeeze(-1)
                self._cache.keep_rows(kept)
                rows, tokens, mask, position, is_running = rows[kept], tokens[kept], mask[kept], position[:, kept], is_running[kept]
            num_keys = self._batch.input_ids.shape[1] + step + 1
            logits = self._advance(tokens, mask=mask[:, :num_keys], position=position + step)

    def response_ids(self, row: int) -> tuple[int, ...]:
        """Without the stop token."""
        return tuple(self._tokens[row, : int(self._num_tokens[row])].tolist())

    def is_stopped(self, row: int) -> bool:
        """False when the row was cut at the limit."""
        return int(self._num_tokens[row]) < self._max_new_tokens

    def trace(self, row: int) -> tuple[TokenTrace, ...] | None:
        return None if self._recorder is None else self._recorder.trace(row, num_tokens=int(self._num_tokens[row]))

    def _prefill(self) -> Tensor:
        batch = self._batch
        return self._forward(input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids, **batch.image_inputs)

    def _advance(self, tokens: Tensor, *, mask: Tensor, position: Tensor) -> Tensor:
        attention_mask = mask[:, None, None, :].bool() if self._takes_key_mask else mask
        return self._forward(input_ids=tokens[:, None], attention_mask=attention_mask, position_ids=position)

    def _forward(self, **inputs: Tensor) -> Tensor:
        """Logits of the last position, float32 [N, V]."""
        return self._model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()

    def _pick(self, logits: Tensor, *, rows: Tensor, step: int) -> Tensor:
        tokens = self._picker.pick(logits, rows=rows, step=step)
        self._tokens[rows, step] = tokens
        if self._recorder is not None:
            self._recorder.record(logits, tokens, rows=rows, step=step)
        return tokens

    def _is_stop(self, tokens: Tensor) -> Tensor:
        return (tokens[:, None] == self._stop_ids).any(dim=-1)


def _stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """The end of a turn, and what else the checkpoint's own generation settings end at (Qwen: also the end of a text)."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    more = [] if configured is None else configured if isinstance(configured, list) else [configured]
    return list(dict.fromkeys([int(tokenizer.convert_tokens_to_ids(END_TEXT)), *map(int, more)]))
