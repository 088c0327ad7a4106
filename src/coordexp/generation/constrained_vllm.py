# pyright: reportMissingImports=false
# vLLM is in the engine's environment alone
"""Constrained decoding inside vLLM: a logits processor that reads the constraint of each request from its `extra_args`.

vLLM imports it by name (`--logits-processors`), in the process that takes requests and in every worker; torch, numpy and vLLM are all that is there. The pieces
of the tokens are those of the server's own tokenizer. Requests without a constraint are left as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from coordexp.codec.answer_automaton import AnswerRow
from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.generation.constrained import AutomatonShelf
from coordexp.generation.constrained_requests import ConstraintRequest
from coordexp.generation.repeat import RepeatGuard
from coordexp.types.errors import UserError

_log = logging.getLogger(__name__)


class ConstrainedProcessor(LogitsProcessor):
    """One in each worker. vLLM calls `update_state`, then `apply`, before each token."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Raises ValueError, which is the answer to the request, when its constraint cannot be read."""
        ConstraintRequest.read(sampling_params.extra_args)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        del is_pin_memory
        self._model_config, self._device = vllm_config.model_config, device
        self._shelves: dict[tuple[int, ...], AutomatonShelf] = {}
        self._rows: dict[int, _Row] = {}
        """By place in the batch."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._rows, batch_update, self._start)

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [requests, vocabulary] with -inf where a token may not come next."""
        numbers = [number for number, row in self._rows.items() if row.catch_up()]
        if numbers:
            allowed = torch.zeros(len(numbers), logits.shape[-1], dtype=torch.bool)
            for line, number in zip(allowed.numpy(), numbers, strict=True):
                self._rows[number].answer.fill(line)
            places = torch.tensor(numbers, device=logits.device)
            logits[places] = logits[places].masked_fill(~allowed.to(logits.device), -torch.inf)
        return logits

    def _start(self, params: SamplingParams, prompt_ids: Sequence[int] | None, output_ids: list[int]) -> _Row | None:
        request = ConstraintRequest.read(params.extra_args)
        if request is None:
            return None
        stop_ids = tuple(params.stop_token_ids or ())
        room = self._model_config.max_model_len - len(prompt_ids or ())
        try:
            shelf = self._shelf(stop_ids)
            answer = shelf.start(request.spec, max_new_tokens=min(params.max_tokens or room, room))
        except (UserError, ValueError) as error:
            # raised here it would end the engine; the client sees that the answer is against its constraint
            _log.error("a request stays without its constraint: %s", error)
            return None
        guard = None if request.repeat is None else RepeatGuard(request.repeat, piece_of=shelf.tokenizer.piece)
        return _Row(answer, guard, output_ids)

    def _shelf(self, stop_ids: tuple[int, ...]) -> AutomatonShelf:
        known = self._shelves.get(stop_ids)
        if known is None:
            from vllm.tokenizers import cached_tokenizer_from_config

            tokenizer = cached_tokenizer_from_config(self._model_config)
            vocabulary = CoordVocabulary.from_tokenizer(tokenizer) if "<|coord_0|>" in tokenizer.get_vocab() else None
            size = int(self._model_config.get_vocab_size())
            known = AutomatonShelf(TextTokenizer.of(tokenizer), vocab_size=size, coord_vocab=vocabulary, stop_ids=stop_ids)
            self._shelves[stop_ids] = known
        return known


class _Row:
    """A request: where its answer is, as far as its tokens were looked at."""

    def __init__(self, answer: AnswerRow, guard: RepeatGuard | None, output_ids: list[int]) -> None:
        self.answer, self._guard = answer, guard
        self._output_ids, self._num_taken = output_ids, 0
        """vLLM's own list, which grows; after the request was moved out and in again, the row begins anew."""

    def catch_up(self) -> bool:
        """Take the tokens that have come; False: nothing is to be forbidden any more."""
        for token in self._output_ids[self._num_taken :]:
            if self.answer.is_done or not self.answer.push(token):
                return False
            self._num_taken += 1
            if self._guard is not None and self._guard.push(token) and not self.answer.is_done:
                self.answer.close_soon()
        return not self.answer.is_done
