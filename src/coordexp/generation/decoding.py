"""Greedy decoding and sampling of any number of prompts, so many at a time. Each row ends by itself: at a stop token, at the limit, or when its loop guard
says so. The places of rows that have ended are given to the next prompts. A step may carry guesses at the next tokens of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from coordexp.generation.constrained import ConstrainedRows
from coordexp.generation.drafts import Drafter
from coordexp.generation.forward import CachedForward
from coordexp.generation.prompt_batch import PromptBatch
from coordexp.generation.repeat import RepeatGuard
from coordexp.generation.sampling import TokenPicker
from coordexp.generation.slots import SlotForward
from coordexp.generation.trace import TraceRecorder
from coordexp.types.rollouts import TokenTrace

FinishReason: TypeAlias = Literal["stop", "length", "repeat"]

_COMPACT_BELOW = 0.75
"""Ended rows are taken out, or replaced, once no more than this share still runs: doing it for each at once would copy the cache too often."""


class Decoding:
    """Rows 0 to `num_rows - 1` from their prompts to the end of the last one, `batch_size` of them at a time. `run` once, then read the rows.

    Which rows run together depends on the answers alone: the same prompts give the same bits again.
    """

    def __init__(
        self,
        forward: CachedForward | SlotForward,
        *,
        num_rows: int,
        batch_size: int,
        collate: Callable[[Sequence[int]], PromptBatch],
        picker: TokenPicker,
        recorder: TraceRecorder | None,
        stop_ids: Tensor,
        max_new_tokens: int,
        guards: Sequence[RepeatGuard] | None = None,
        constrained: ConstrainedRows | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        """`collate` gives the prompts of some rows; `stop_ids` [S] is on the model's device; `guards` has one for each row; `constrained` is the picker's.
        `drafter`: for a `CachedForward` with sdpa attention.
        """
        device = stop_ids.device
        self._forward, self._collate, self._picker, self._recorder = forward, collate, picker, recorder
        self._stop_ids, self._guards, self._max_new_tokens, self._batch_size = stop_ids, guards, max_new_tokens, batch_size
        # a row that has ended but is still in the batch writes to the last column
        self._tokens = torch.zeros(num_rows, max_new_tokens + 1, dtype=torch.long, device=device)
        self._num_tokens = torch.zeros(num_rows, dtype=torch.long, device=device)
        self._is_stopped = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._constrained, self._drafter = constrained, drafter
        self._looped: set[int] = set()

    def run(self) -> None:
        """Generate until every row has ended. In a forward with places, rows that have ended stay until others come: there they cost nothing."""
        num_begun, num_rows = 0, len(self._num_tokens)
        rows = self._stop_ids.new_zeros(0)
        tokens, is_running = rows, rows.bool()
        while True:
            num_running = int(is_running.sum())
            if num_begun < num_rows and num_running <= _COMPACT_BELOW * self._batch_size:
                new = torch.arange(num_begun, min(num_rows, num_begun + self._batch_size - num_running), device=rows.device)
                order, logits = self._forward.admit(is_running, self._collate(new.tolist()))
                new_tokens, new_running = self._take(logits, rows=new, is_running=torch.ones_like(new, dtype=torch.bool))
                rows, tokens = torch.cat((rows, new))[order], torch.cat((tokens, new_tokens))[order]
                is_running = torch.cat((is_running, new_running))[order]
                num_begun += len(new)
                continue
            if num_running == 0:
                return
            if isinstance(self._forward, CachedForward) and num_running <= _COMPACT_BELOW * len(rows):
                kept = is_running.nonzero().squeeze(-1)
                self._forward.keep_rows(kept)
                rows, tokens, is_running = rows[kept], tokens[kept], is_running[kept]
            tokens, is_running = self._step(tokens, rows=rows, is_running=is_running)

    def response_ids(self, row: int) -> tuple[int, ...]:
        """Without the stop token."""
        return tuple(self._tokens[row, : int(self._num_tokens[row])].tolist())

    def finish_reason(self, row: int) -> FinishReason:
        if row in self._looped:
            return "repeat"
        if self._constrained is not None and self._constrained.is_short(row):
            return "length"
        return "stop" if bool(self._is_stopped[row]) else "length"

    def trace(self, row: int) -> tuple[TokenTrace, ...] | None:
        return None if self._recorder is None else self._recorder.trace(row, num_tokens=int(self._num_tokens[row]))

    def _step(self, tokens: Tensor, *, rows: Tensor, is_running: Tensor) -> tuple[Tensor, Tensor]:
        """What `_take` returns, after one step of the model with these tokens [N]; where guesses were right, after them."""
        drafts = None if self._drafter is None else self._drafter.guesses(rows.tolist(), is_running.tolist())
        if drafts is None or not isinstance(self._forward, CachedForward):
            return self._take(self._forward.advance(tokens), rows=rows, is_running=is_running)
        guesses = torch.tensor(drafts, device=tokens.device)
        logits = self._forward.advance_with_guesses(tokens, guesses)
        tokens, is_running = self._take(logits[:, 0], rows=rows, is_running=is_running)
        is_right = torch.zeros_like(guesses, dtype=torch.bool)
        right = torch.arange(len(rows), device=rows.device)
        for place in range(guesses.shape[1]):
            right = right[is_running[right] & (tokens[right] == guesses[right, place])]
            if len(right) == 0:
                break
            is_right[right, place] = True
            tokens[right], is_running[right] = self._take(logits[right, place + 1], rows=rows[right], is_running=is_running[right])
        self._forward.keep_guesses(is_right)
        return tokens, is_running

    def _take(self, logits: Tensor, *, rows: Tensor, is_running: Tensor) -> tuple[Tensor, Tensor]:
        """The next token [N] of each of these rows [N], and which of them go on [N]."""
        steps = torch.where(is_running, self._num_tokens[rows], self._max_new_tokens)
        tokens = self._picker.pick(logits, rows=rows, steps=steps)
        self._tokens[rows, steps] = tokens
        if self._drafter is not None:
            for row, token, runs in zip(rows.tolist(), tokens.tolist(), is_running.tolist(), strict=True):
                if runs:
                    self._drafter.push(row, token)
        if self._recorder is not None:
            self._recorder.record(logits, tokens, rows=rows, steps=steps, is_running=is_running)
        is_stop = is_running & (tokens[:, None] == self._stop_ids).any(dim=-1)
        self._is_stopped[rows] |= is_stop
        is_running = is_running & ~is_stop
        self._num_tokens[rows] += is_running.long()
        if self._guards is not None:
            is_running = self._end_loops(self._guards, tokens, rows=rows, is_running=is_running)
        return tokens, is_running & (steps + 1 < self._max_new_tokens)

    def _end_loops(self, guards: Sequence[RepeatGuard], tokens: Tensor, *, rows: Tensor, is_running: Tensor) -> Tensor:
        """`is_running` without the rows whose guard fires at this token, which stays part of the answer; a constrained row ends its document first."""
        numbers, running = rows.tolist(), is_running.tolist()
        loops = [runs and guards[row].push(token) for row, token, runs in zip(numbers, tokens.tolist(), running, strict=True)]
        ended = [row for row, is_loop in zip(numbers, loops, strict=True) if is_loop]
        self._looped.update(ended)
        if self._constrained is not None:
            for row in ended:
                self._constrained.close_soon(row)
            return is_running
        return is_running & ~torch.tensor(loops, device=is_running.device)
