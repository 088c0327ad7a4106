"""The same numbers as `plain_rows` without the logits: rows go through the head in chunks, and only what losses and diagnostics read is kept.

The gradient is formed in the forward, chunk by chunk, and multiplied in the backward by the scalar that arrives from above. For coordinate rows that needs to
know how the gradients of their logsumexps relate to that scalar (`RowQuery.lse_share`); where that is not known, or float16 needs the scale of the loss before
anything is rounded, rows go through the head once more in the backward. Products run in the format of autocast or of the weight, all else in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from coordexp.losses.rows import HeadProducts, OutputHead, RowQuery, RowResult, RowStats, count_above, plain_rows

_MOST_CHUNKS: Final = 16
"""As long as blocks stay small enough. The gradient of a half-precision weight is summed in its own format over at most this many: one rounding each."""

_LEAST_ROWS: Final = 256
"""Of a chunk: fewer would spend the time on reading the weight and on adding to its gradient."""

_MOST_BYTES: Final = 256 * 2**20
"""Of a block of float32 logits."""

_ROUNDING: Final = 1e-6
"""Relative difference between gradients that two ways of rounding make."""

_SLICE: Final = 16384
"""Rows of a weight's gradient that are formed at a time when format of product and sum differ."""


def lean_rows(hidden: Tensor, head: OutputHead, query: RowQuery, *, coord_ids: Tensor, chunk_rows: int | None = None) -> RowResult:
    """As `plain_rows`. A head that is no sum of matrix products goes through `plain_rows`, with a warning. Backward runs once, not twice.

    Args:
        hidden: Float[Tensor, "... width"], last hidden states.
        head: the output head.
        query: rows and targets.
        coord_ids: Long[Tensor, "num_bins"].
        chunk_rows: rows that go through the head at a time; None: a sixteenth of them, within limits.
    """
    selected = hidden.flatten(0, -2).index_select(0, torch.cat((query.text_rows, query.coord_rows)))
    parts = head.products(selected)
    if parts is None:
        sentence = "this output head is neither linear nor a known adapter: its logits are formed in full, as loss_impl: plain does"
        warnings.warn(sentence, stacklevel=2)
        return plain_rows(hidden, head, query, coord_ids=coord_ids)
    job = _Job(query, coord_ids, parts.row_ids, _product_formats(parts, hidden.device.type), chunk_rows, torch.is_grad_enabled())
    inputs, weights = [part.inputs for part in parts.products], [part.weight for part in parts.products]
    text_sum, coord_logits, coord_lse, text_ce, *stats = _Rows.apply(job, *inputs, *weights, parts.rows)
    return RowResult(text_sum, text_ce, coord_logits, coord_lse, text=RowStats(*stats[:4]), coord=RowStats(*stats[4:]))


def _product_formats(parts: HeadProducts, device: str) -> tuple[torch.dtype, ...]:
    if torch.is_autocast_enabled(device):
        return (torch.get_autocast_dtype(device),) * len(parts.products)
    return tuple(part.weight.dtype for part in parts.products)


@dataclass(frozen=True, slots=True)
class _Job:
    query: RowQuery
    coord_ids: Tensor
    row_ids: Tensor | None
    formats: tuple[torch.dtype, ...]
    chunk_rows: int | None
    is_differentiable: bool

    @property
    def is_fp16(self) -> bool:
        """Its small numbers vanish unless they are scaled first: all gradients wait for the backward, where the scale is known."""
        return torch.float16 in self.formats


class _Tensors(NamedTuple):
    """What autograd sees of a head."""

    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    rows: Tensor | None

    @classmethod
    def split(cls, job: _Job, flat: Any) -> _Tensors:
        count = len(job.formats)
        return cls(flat[:count], flat[count:-1], flat[-1])


class _Head:
    """The weights in the formats of their products, for one pass over rows. Nothing here is seen by autograd."""

    def __init__(self, job: _Job, tensors: _Tensors) -> None:
        self.formats, self.raw_weights = job.formats, [weight.detach() for weight in tensors.weights]
        self.inputs = [x.detach().to(dtype) for x, dtype in zip(tensors.inputs, job.formats, strict=True)]
        self.row_ids, self.rows = job.row_ids, None if tensors.rows is None else tensors.rows.detach().to(job.formats[0])
        self.vocab, self.num_rows = self.raw_weights[0].shape[0], self.inputs[0].shape[0]
        self.dtype = torch.promote_types(self.inputs[0].dtype, torch.float32)
        self.size = job.chunk_rows or rows_at_a_time(self.num_rows, self.vocab)
        self._block: Tensor | None = None

    @cached_property
    def weights(self) -> list[Tensor]:
        return [weight.to(dtype) for weight, dtype in zip(self.raw_weights, self.formats, strict=True)]

    def chunks(self, first: int, end: int) -> Iterator[slice]:
        """Rows `first` to `end` in pieces of about equal size; one empty piece for no rows."""
        count = max(1, -(-(end - first) // self.size))
        for number in range(count):
            yield slice(first + (end - first) * number // count, first + (end - first) * (number + 1) // count)

    def logits(self, rows: slice) -> Tensor:
        """Float[Tensor, "chunk vocab"] in float32 or wider; the block is reused by the next call."""
        if self._block is None:
            self._block = torch.empty(min(self.size, self.num_rows), self.vocab, dtype=self.dtype, device=self.inputs[0].device)
        block = self._block[: rows.stop - rows.start]
        first = self.inputs[0][rows]
        _multiply(first, self.weights[0], out=block)
        if self.rows is not None and self.row_ids is not None:
            block.index_copy_(1, self.row_ids, (first @ self.rows.t()).to(self.dtype))
        for x, weight in zip(self.inputs[1:], self.weights[1:], strict=True):
            if weight.dtype == self.dtype:
                block.addmm_(x[rows], weight.t())
            else:
                block += x[rows] @ weight.t()
        return block


def _multiply(x: Tensor, weight: Tensor, *, out: Tensor) -> None:
    if out.dtype == weight.dtype:
        torch.mm(x, weight.t(), out=out)
    else:
        out.copy_(x @ weight.t())


class _Gradients:
    """Sums over chunks: what flows to inputs, weights and replaced rows, where wanted."""

    def __init__(self, head: _Head, tensors: _Tensors, wanted: tuple[bool, ...]) -> None:
        count, num_chunks = len(tensors.weights), -(-head.num_rows // head.size)
        self.inputs = [_zeros(x, head.dtype) if want else None for x, want in zip(tensors.inputs, wanted, strict=False)]
        self.weights = [_zeros(w, _sum_format(w, num_chunks)) if want else None for w, want in zip(tensors.weights, wanted[count:], strict=False)]
        self.rows = _zeros(tensors.rows, head.dtype) if tensors.rows is not None and wanted[-1] else None

    def add(self, head: _Head, rows: slice, block: Tensor) -> None:
        """The gradient of the logits of `rows`; `block` is overwritten."""
        for number in reversed(range(len(head.weights))):
            if number == 0 and head.row_ids is not None:
                self._add_replaced(head, rows, block)
                block.index_fill_(1, head.row_ids, 0.0)
            weight, into, sums = head.weights[number], self.inputs[number], self.weights[number]
            gradient = block.to(weight.dtype)
            if into is not None:
                into[rows] += gradient @ weight
            if sums is not None:
                _add_outer(sums, gradient, head.inputs[number][rows])

    def _add_replaced(self, head: _Head, rows: slice, block: Tensor) -> None:
        assert head.row_ids is not None
        assert head.rows is not None
        columns = block.index_select(1, head.row_ids).to(head.rows.dtype)
        if self.inputs[0] is not None:
            self.inputs[0][rows] += columns @ head.rows
        if self.rows is not None:
            self.rows += columns.t() @ head.inputs[0][rows]

    def add_columns(self, head: _Head, rows: slice, ids: Tensor, gradient: Tensor) -> None:
        """The gradient of the logits of `rows` in the columns `ids` only."""
        for number, (raw, dtype) in enumerate(zip(head.raw_weights, head.formats, strict=True)):
            columns, own = raw.index_select(0, ids).to(dtype), gradient.to(dtype)
            outer = own.t() @ head.inputs[number][rows]
            if number == 0 and head.row_ids is not None and head.rows is not None:
                where, which = _overlap(ids, head.row_ids, head.vocab)
                columns.index_copy_(0, where, head.rows.index_select(0, which))
                if self.rows is not None:
                    self.rows.index_add_(0, which, outer.index_select(0, where).to(self.rows.dtype))
                outer.index_fill_(0, where, 0.0)
            into, sums = self.inputs[number], self.weights[number]
            if into is not None:
                into[rows] += own @ columns
            if sums is not None:
                sums.index_add_(0, ids, outer.to(sums.dtype))

    def multiply(self, factor: Tensor) -> None:
        for tensor in (*self.inputs, *self.weights, self.rows):
            if tensor is not None:
                tensor.mul_(factor)

    def result(self, tensors: _Tensors) -> list[Tensor | None]:
        """In the order and the formats of `tensors`."""
        found = (*self.inputs, *self.weights, self.rows)
        like = (*tensors.inputs, *tensors.weights, tensors.rows)
        return [tensor if tensor is None or own is None else tensor.to(own.dtype) for tensor, own in zip(found, like, strict=True)]


def rows_at_a_time(num_rows: int, vocab: int) -> int:
    """Of `num_rows` rows, so many have logits over `vocab` ids at the same time."""
    return max(1, min(max(_LEAST_ROWS, -(-num_rows // _MOST_CHUNKS)), _MOST_BYTES // (4 * vocab)))


def _zeros(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(like.shape, dtype=dtype, device=like.device)


def _sum_format(weight: Tensor, num_chunks: int) -> torch.dtype:
    return weight.dtype if num_chunks <= _MOST_CHUNKS else torch.promote_types(weight.dtype, torch.float32)


def _add_outer(sums: Tensor, gradient: Tensor, x: Tensor) -> None:
    """In place: sums + gradient.T @ x."""
    if sums.dtype == x.dtype:
        sums.addmm_(gradient.t(), x)
        return
    for start in range(0, len(sums), _SLICE):
        sums[start : start + _SLICE] += gradient[:, start : start + _SLICE].t() @ x


def _overlap(ids: Tensor, row_ids: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """(positions in `ids`, positions in `row_ids`) of the ids in both."""
    place = torch.full((vocab,), -1, device=ids.device)
    place[row_ids] = torch.arange(len(row_ids), device=ids.device)
    which = place[ids]
    where = (which >= 0).nonzero()[:, 0]
    return where, which[where]


class _Chunk:
    """A block of logits z, turned in place into exp(z / T - peak), and what is read off it on the way."""

    def __init__(self, block: Tensor, targets: Tensor, coord_ids: Tensor, *, temperature: float = 1.0) -> None:
        best, target_logit = block.argmax(-1), block.gather(1, targets[:, None])
        peak = block.gather(1, best[:, None])
        stats = (best == targets, count_above(block, target_logit), torch.isin(best, coord_ids))
        self.columns = block.index_select(1, coord_ids)
        """The logits of the coordinate tokens."""
        lse = None
        if temperature != 1.0:
            lse = torch.logsumexp(block, dim=-1)
            block.div_(temperature)
            peak = peak / temperature
        self.exponentials = block.sub_(peak).exp_()
        self.total = block.sum(-1)
        self.log_total = self.total.log()
        self.lse = peak[:, 0] + self.log_total
        """logsumexp(z / T)"""
        self.target = (target_logit - peak)[:, 0]
        """z - peak of the target; with T = 1 only."""
        mass = torch.exp(torch.logsumexp(self.columns, dim=-1) - (self.lse if lse is None else lse))
        self.stats = (*stats, mass)
        """The fields of `RowStats`."""


def _text_rows(head: _Head, job: _Job, *, sums: _Gradients | None, factor: Tensor | None = None) -> tuple[Tensor, ...]:
    """(cross-entropy, *statistics) of each text row. Adds the gradient of the weighted sum, times `factor`, to `sums`."""
    query, found = job.query, []
    weight = query.text_weight.to(head.dtype) if factor is None else query.text_weight * factor
    for rows in head.chunks(0, query.text_rows.numel()):
        targets = query.text_targets[rows]
        chunk = _Chunk(head.logits(rows), targets, job.coord_ids)
        # not lse - target logit: a difference of large numbers
        found.append((chunk.log_total - chunk.target, *chunk.stats))
        if sums is not None:
            block = chunk.exponentials.mul_((weight[rows] / chunk.total)[:, None])
            block.scatter_add_(1, targets[:, None], -weight[rows, None])
            sums.add(head, rows, block)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _coord_rows(head: _Head, job: _Job, *, sums: _Gradients | None, factors: Tensor | None = None) -> tuple[Tensor, ...]:
    """(coordinate logits, logsumexp(z / T), *statistics) of each coordinate row. Adds the gradient of the logsumexps times `factors` to `sums`."""
    query, found, start = job.query, [], job.query.text_rows.numel()
    for rows in head.chunks(start, head.num_rows):
        own = slice(rows.start - start, rows.stop - start)
        chunk = _Chunk(head.logits(rows), query.coord_targets[own], job.coord_ids, temperature=query.temperature)
        found.append((chunk.columns, chunk.lse, *chunk.stats))
        if sums is not None and factors is not None:
            sums.add(head, rows, chunk.exponentials.mul_((factors[own] / (chunk.total * query.temperature))[:, None]))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


class _Rows(torch.autograd.Function):
    """(text_sum, coord_logits, coord_lse, text_ce, the fields of `RowStats` for text rows, and for coordinate rows)"""

    @staticmethod
    def forward(ctx: Any, job: _Job, *flat: Tensor | None) -> tuple[Tensor, ...]:
        tensors, query = _Tensors.split(job, flat), job.query
        wanted = tuple(job.is_differentiable and needs for needs in ctx.needs_input_grad[1:])
        with torch.autocast(tensors.inputs[0].device.type, enabled=False):
            head = _Head(job, tensors)
            sums = _Gradients(head, tensors, wanted) if any(wanted) and not job.is_fp16 else None
            text_ce, *text_stats = _text_rows(head, job, sums=sums)
            coord_logits, coord_lse, *coord_stats = _coord_rows(head, job, sums=sums, factors=query.lse_share if query.is_lse_trained else None)
            text_sum = (query.text_weight * text_ce).sum()
        ctx.job, ctx.wanted, ctx.sums, ctx.is_spent = job, wanted, sums, False
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(text_ce, *text_stats, *coord_stats, *(() if query.is_lse_trained else (coord_lse,)))
        return text_sum, coord_logits, coord_lse, text_ce, *text_stats, *coord_stats

    @staticmethod
    def backward(ctx: Any, text_factor: Tensor | None, columns: Tensor | None, lse_factors: Tensor | None, *_: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.is_spent:
            raise RuntimeError("lean_rows keeps its gradients for one backward only; use plain_rows to go backward twice")
        job, sums = ctx.job, ctx.sums
        tensors = _Tensors.split(job, ctx.saved_tensors)
        ctx.is_spent, ctx.sums = True, None
        with torch.autocast(tensors.inputs[0].device.type, enabled=False):
            head = _Head(job, tensors)
            if sums is None:
                sums = _Gradients(head, tensors, ctx.wanted)
                if text_factor is not None:
                    _text_rows(head, job, sums=sums, factor=text_factor)
            else:
                factor, lse_factors = _split_factors(job.query, text_factor, lse_factors)
                sums.multiply(factor)
            if lse_factors is not None:
                _coord_rows(head, job, sums=sums, factors=lse_factors)
            if columns is not None:
                sums.add_columns(head, slice(job.query.text_rows.numel(), head.num_rows), job.coord_ids, columns)
        return None, *sums.result(tensors)


def _split_factors(query: RowQuery, text_factor: Tensor | None, lse_factors: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """(what all gradients of the forward are multiplied by, what then is still missing for each logsumexp; None: nothing)."""
    share = query.lse_share if query.is_lse_trained else None
    zero = query.text_weight.new_zeros(())
    if share is None:
        is_needed = lse_factors is not None and bool(lse_factors.any())
        return zero if text_factor is None else text_factor, lse_factors if is_needed else None
    arrived = torch.zeros_like(share) if lse_factors is None else lse_factors
    if query.text_rows.numel():
        factor = zero if text_factor is None else text_factor
    else:
        factor = torch.dot(share, arrived) / torch.dot(share, share).clamp_min(torch.finfo(share.dtype).tiny)
    missing = arrived - share * factor
    is_rounding = missing.abs().sum() <= _ROUNDING * arrived.abs().sum()
    return factor, None if bool(is_rounding) else missing
