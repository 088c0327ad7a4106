"""Greedy decoding and sampling of one batch. Each row ends by itself: at a stop token, at the limit, or when its loop guard says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from coordexp.generation.constrained import ConstrainedRows
from coordexp.generation.forward import CachedForward
from coordexp.generation.repeat import RepeatGuard
from coordexp.generation.sampling import TokenPicker
from coordexp.generation.trace import TraceRecorder
from coordexp.types.rollouts import TokenTrace

FinishReason: TypeAlias = Literal["stop", "length", "repeat"]

_COMPACT_BELOW = 0.75
"""Ended rows are taken out once less than this share still runs: dropping each at once would copy the cache too often."""


class Decoding:
    """One batch from its prompts to the end of its last row. `run` once, then read the rows."""

    def __init__(
        self,
        forward: CachedForward,
        *,
        num_rows: int,
        picker: TokenPicker,
        recorder: TraceRecorder | None,
        stop_ids: Tensor,
        max_new_tokens: int,
        guards: Sequence[RepeatGuard] | None = None,
        constrained: ConstrainedRows | None = None,
    ) -> None:
        """`stop_ids` [S] is on the device of the model; `guards` has one for each row; `constrained` is that of the picker."""
        device = stop_ids.device
        self._forward, self._picker, self._recorder = forward, picker, recorder
        self._stop_ids, self._guards, self._max_new_tokens = stop_ids, guards, max_new_tokens
        self._tokens = torch.zeros(num_rows, max_new_tokens, dtype=torch.long, device=device)
        self._num_tokens = torch.full((num_rows,), max_new_tokens, device=device)
        self._constrained = constrained
        self._looped: set[int] = set()

    def run(self) -> None:
        """Generate until every row has ended."""
        rows = torch.arange(self._tokens.shape[0], device=self._tokens.device)
        is_running = torch.ones_like(rows, dtype=torch.bool)
        logits = self._forward.prefill()
        for step in range(self._max_new_tokens):
            tokens = self._pick(logits, rows=rows, step=step)
            is_running = is_running & ~(tokens[:, None] == self._stop_ids).any(dim=-1)
            self._num_tokens[rows] = torch.where(is_running, self._num_tokens[rows], self._num_tokens[rows].clamp(max=step))
            if self._guards is not None:
                is_running = self._end_loops(self._guards, tokens, rows=rows, is_running=is_running, step=step)
            num_running = int(is_running.sum())
            if num_running == 0 or step + 1 == self._max_new_tokens:
                break
            if num_running < _COMPACT_BELOW * len(rows):
                kept = is_running.nonzero().squeeze(-1)
                self._forward.keep_rows(kept)
                rows, tokens, is_running = rows[kept], tokens[kept], is_running[kept]
            logits = self._forward.advance(tokens, step=step)

    def response_ids(self, row: int) -> tuple[int, ...]:
        """Without the stop token."""
        return tuple(self._tokens[row, : int(self._num_tokens[row])].tolist())

    def finish_reason(self, row: int) -> FinishReason:
        if row in self._looped:
            return "repeat"
        if self._constrained is not None and self._constrained.is_short(row):
            return "length"
        return "stop" if int(self._num_tokens[row]) < self._max_new_tokens else "length"

    def trace(self, row: int) -> tuple[TokenTrace, ...] | None:
        return None if self._recorder is None else self._recorder.trace(row, num_tokens=int(self._num_tokens[row]))

    def _pick(self, logits: Tensor, *, rows: Tensor, step: int) -> Tensor:
        tokens = self._picker.pick(logits, rows=rows, step=step)
        self._tokens[rows, step] = tokens
        if self._recorder is not None:
            self._recorder.record(logits, tokens, rows=rows, step=step)
        return tokens

    def _end_loops(self, guards: Sequence[RepeatGuard], tokens: Tensor, *, rows: Tensor, is_running: Tensor, step: int) -> Tensor:
        """`is_running` without the rows whose guard fires at this token, which stays part of the answer; a constrained row ends its document first."""
        numbers, running = rows.tolist(), is_running.tolist()
        loops = [runs and guards[row].push(token) for row, token, runs in zip(numbers, tokens.tolist(), running, strict=True)]
        ended = [row for row, is_loop in zip(numbers, loops, strict=True) if is_loop]
        self._looped.update(ended)
        if self._constrained is not None:
            for row in ended:
                self._constrained.close_soon(row)
            return is_running
        self._num_tokens[ended] = step + 1
        return is_running & ~torch.tensor(loops, device=is_running.device)
