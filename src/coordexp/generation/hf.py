"""Generation with a transformers model in this process.

Batches are padded on the left, with the attention mask and the Qwen3-VL rope positions of each row as if it were alone: a row's tokens do not depend on its
neighbours. Rows that have ended leave the batch, and the next prompts take their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from coordexp.codec.answer_automaton import AnswerRow
from coordexp.codec.pieces import decode_pieces
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.beams import BeamSearch
from coordexp.generation.constrained import AutomatonShelf, ConstrainedRows
from coordexp.generation.decoding import Decoding
from coordexp.generation.drafts import Drafter
from coordexp.generation.forward import CachedForward, takes_key_mask
from coordexp.generation.prompt_batch import PromptBatch, collate_prompts
from coordexp.generation.protocol import BackendInfo, GenerationRequest
from coordexp.generation.repeat import RepeatGuard
from coordexp.generation.sampling import TokenPicker
from coordexp.generation.slots import SlotForward
from coordexp.generation.stop_tokens import stop_token_ids
from coordexp.generation.trace import TraceRecorder
from coordexp.models.load import LoadedModel
from coordexp.types.errors import BackendError
from coordexp.types.rollouts import GenerationSample, GenerationSettings, TokenTrace


class HfBackend:
    """Batched generation with the model of a `LoadedModel`. Not for two threads at once.

    Example: `HfBackend(load_model(path), batch_size=16).generate(requests, GenerationSettings(max_new_tokens=512), with_trace=True)`
    """

    def __init__(self, loaded: LoadedModel, *, batch_size: int = 16, has_fixed_weights: bool = False) -> None:
        """`has_fixed_weights`: the tensors of the weights stay where they are, so that a step on a GPU may be recorded once and replayed."""
        self._model: Any = loaded.model
        self._tokenizer: Any = loaded.tokenizer
        self.text_tokenizer = TextTokenizer.of(self._tokenizer)
        self._coord_vocab = loaded.coord_vocab
        self._batch_size = batch_size
        self._stop_ids = stop_token_ids(self._model.generation_config, self._tokenizer)
        self._vocab_size = int(self._model.config.get_text_config().vocab_size)
        self._automata = AutomatonShelf(
            self.text_tokenizer, vocab_size=self._vocab_size, coord_vocab=loaded.coord_vocab if loaded.coord_vocab.ids else None, stop_ids=self._stop_ids
        )
        parameter = next(self._model.parameters())
        self._slots = SlotForward(self._model) if has_fixed_weights and takes_key_mask(self._model) and parameter.is_cuda else None
        # measured on CPUs alone
        self._has_drafts = takes_key_mask(self._model) and parameter.device.type == "cpu"
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
        """See `GenerationBackend.generate`. `batch_size` of them run at a time, shorter prompts first; beam search gives no trace.

        Raises:
            BackendError: out of memory, beams that are sampled were asked for, or no constrained answer fits into `max_new_tokens`.
        """
        if settings.num_beams > 1 and settings.temperature > 0:
            what = f"beam search does not sample (num_beams={settings.num_beams}, temperature={settings.temperature})"
            raise BackendError(what, fix="set the temperature to 0, or take one beam")
        by_length = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt.token_ids))
        ordered = [requests[index] for index in by_length]
        with self._ready():
            if settings.num_beams > 1:
                batches = [ordered[start : start + self._batch_size] for start in range(0, len(ordered), self._batch_size)]
                answers = [answer for batch in batches for answer in self._search(batch, settings)]
            else:
                answers = self._decode(ordered, settings, with_trace=with_trace)
        samples = dict(zip(by_length, answers, strict=True))
        return [samples[index] for index in range(len(requests))]

    def close(self) -> None:
        self._model = self._slots = None

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

    def _decode(self, requests: Sequence[GenerationRequest], settings: GenerationSettings, *, with_trace: bool) -> list[GenerationSample]:
        size = {"vocab_size": self._vocab_size, "device": next(self._model.parameters()).device}
        constrained = self._constrained(settings, len(requests))
        seeds, prompt_ids = [request.seed for request in requests], [request.prompt.token_ids.tolist() for request in requests]
        decoding = Decoding(
            self._slots or CachedForward(self._model),
            num_rows=len(requests),
            batch_size=self._batch_size,
            collate=lambda rows: self._collate([requests[row] for row in rows]),
            picker=TokenPicker(settings, seeds=seeds, prompt_ids=prompt_ids, constrained=constrained, **size),
            recorder=TraceRecorder(self._coord_vocab, num_rows=len(requests), num_steps=settings.max_new_tokens, **size) if with_trace else None,
            stop_ids=torch.tensor(self._stop_ids, device=size["device"]),
            max_new_tokens=settings.max_new_tokens,
            guards=self._guards(settings, len(requests)),
            constrained=constrained,
            drafter=Drafter(len(requests), coord_ids=self._coord_vocab.ids) if self._has_drafts else None,
        )
        decoding.run()
        return [
            self._sample(request, decoding.response_ids(row), decoding.finish_reason(row), trace=decoding.trace(row)) for row, request in enumerate(requests)
        ]

    def _search(self, requests: Sequence[GenerationRequest], settings: GenerationSettings) -> list[GenerationSample]:
        search = BeamSearch(
            CachedForward(self._model),
            self._collate(requests),
            num_beams=settings.num_beams,
            stop_ids=torch.tensor(self._stop_ids, device=next(self._model.parameters()).device),
            max_new_tokens=settings.max_new_tokens,
            repetition_penalty=settings.repetition_penalty,
            guards=self._guards(settings, len(requests)),
            answers=self._answers(settings, len(requests)),
        )
        found = search.run([request.prompt.token_ids.tolist() for request in requests])
        return [self._sample(request, best.ids, best.finish_reason) for request, best in zip(requests, found, strict=True)]

    def _collate(self, requests: Sequence[GenerationRequest]) -> PromptBatch:
        pad_id = self._tokenizer.pad_token_id
        return collate_prompts([request.prompt for request in requests], model=self._model, pad_id=self._stop_ids[0] if pad_id is None else pad_id)

    def _guards(self, settings: GenerationSettings, count: int) -> list[RepeatGuard] | None:
        limits = settings.repeat
        return None if limits is None else [RepeatGuard(limits, piece_of=self.text_tokenizer.piece) for _ in range(count)]

    def _answers(self, settings: GenerationSettings, count: int) -> list[AnswerRow] | None:
        spec = settings.constraint
        return None if spec is None else [self._automata.start(spec, max_new_tokens=settings.max_new_tokens) for _ in range(count)]

    def _constrained(self, settings: GenerationSettings, count: int) -> ConstrainedRows | None:
        answers = self._answers(settings, count)
        return None if answers is None else ConstrainedRows(answers, vocab_size=self._vocab_size)

    def _sample(self, request: GenerationRequest, ids: tuple[int, ...], finish_reason: str, *, trace: tuple[TokenTrace, ...] | None = None) -> GenerationSample:
        return GenerationSample(
            prompt_ids=tuple(request.prompt.token_ids.tolist()),
            response_ids=ids,
            text=decode_pieces(ids, tokenizer=self.text_tokenizer).text,
            finish_reason=finish_reason,
            seed=request.seed,
            trace=trace,
        )
