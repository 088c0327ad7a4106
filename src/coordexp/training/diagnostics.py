"""Stage-1 diagnostics, from what the loss read off the head, outside the gradient. One transfer from the device for each forward.

The losses by term are always measured. Everything beyond them is a diagnostic: one that fails warns once, is switched off, and training goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TypeAlias

import torch
from torch import Tensor

from coordexp.batching.collate import TOKEN_TYPES, BatchContractError, Supervision
from coordexp.geometry.bins import NUM_BINS
from coordexp.losses.coordinates import CoordTerms
from coordexp.losses.rows import RowResult
from coordexp.metrics.registry import REGISTRY
from coordexp.types.errors import first_line
from coordexp.types.metrics import Metric, Reduction

_TOP = 5


class Tally:
    """(total, count), or single observations, by key, kept on the device until `metrics` reads all of them at once."""

    def __init__(self, device: torch.device) -> None:
        self._keys: list[str] = []
        self._values: list[Tensor] = []
        self._device = device

    def add(self, key: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        self._put(key, torch.stack((self._scalar(total), self._scalar(count))))

    def add_mean(self, key: str, values: Tensor, where: Tensor | None = None) -> None:
        """Mean of `values` over the rows that `where` selects, or over all."""
        if where is None:
            self.add(key, values.sum(dtype=torch.float64), values.numel())
        else:
            self.add(key, (values * where).sum(dtype=torch.float64), where.sum())

    def add_all(self, key: str, values: Tensor) -> None:
        """Each of `values`, of a key that folds as a percentile."""
        self._put(key, values.to(torch.float64))

    def __len__(self) -> int:
        return len(self._keys)

    def cut(self, length: int) -> None:
        """Forget what was added after the first `length` keys."""
        del self._keys[length:], self._values[length:]

    def metrics(self) -> dict[str, Metric]:
        """Raises `UnknownMetricError` for a key that is not registered."""
        numbers = iter(torch.cat(self._values).tolist())
        read = [(key, [next(numbers) for _ in range(len(values))]) for key, values in zip(self._keys, self._values, strict=True)]
        return {key: _metric(values, REGISTRY.get(key).reduction) for key, values in read}

    def _put(self, key: str, values: Tensor) -> None:
        self._keys.append(key)
        self._values.append(values)

    def _scalar(self, value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(torch.float64)
        return torch.tensor(value, dtype=torch.float64, device=self._device)


def _metric(values: list[float], reduction: Reduction) -> Metric:
    if reduction is Reduction.P90:
        return Metric.of(values, reduction)
    total, count = values
    return Metric(total=total, count=count, reduction=reduction)


Diagnostic: TypeAlias = Callable[[Tally, RowResult, Supervision], None]
"""Adds keys to the tally of one forward."""


class Stage1Monitor:
    """All Stage-1 metrics of one forward. Keys counted per optimizer step have count 0 here; the trainer adds the step."""

    def __init__(self, *, is_enabled: bool, by_token_type: bool, more: Mapping[str, Diagnostic] | None = None) -> None:
        """`more`: diagnostics by name, beside those of this module."""
        self._is_enabled = is_enabled
        by_type = {"token types": _add_token_types} if by_token_type else {}
        self._diagnostics: dict[str, Diagnostic] = {"coordinates": _add_distribution, "tokens": _add_tokens, **by_type, **(more or {})}

    @torch.no_grad()
    def __call__(self, rows: RowResult, terms: CoordTerms, supervision: Supervision, *, num_samples: int) -> dict[str, Metric]:
        tally = Tally(rows.text_ce.device)
        self._add_losses(tally, rows, terms, supervision, num_samples)
        tally.add("pack/num_samples", num_samples)
        for name in tuple(self._diagnostics):
            self._try(name, tally, rows, supervision)
        return tally.metrics()

    def _try(self, name: str, tally: Tally, rows: RowResult, supervision: Supervision) -> None:
        length = len(tally)
        try:
            self._diagnostics[name](tally, rows, supervision)
        except BatchContractError:
            raise
        except (RuntimeError, ArithmeticError, IndexError, ValueError) as error:
            tally.cut(length)
            del self._diagnostics[name]
            warnings.warn(f"the diagnostic '{name}' failed ({first_line(error)}) and is switched off; training goes on without it", stacklevel=2)

    def _add_losses(self, tally: Tally, rows: RowResult, terms: CoordTerms, supervision: Supervision, num_samples: int) -> None:
        text_sum = (supervision.text_weight * rows.text_ce).sum(dtype=torch.float64)
        num_text, num_coord = supervision.text_rows.numel(), supervision.coord_rows.numel()
        tally.add("base_ce/loss", text_sum, supervision.text_weight.sum())
        tally.add("base_ce/noncoord_tokens", num_text, 0.0)
        tally.add("base_ce/noncoord_tokens_per_sample", num_text, num_samples)
        tally.add("base_ce/loss_per_sample", text_sum, num_samples)
        tally.add("coord_diag/enabled", float(self._is_enabled))
        for field in fields(CoordTerms):
            name = "loss" if field.name == "total" else field.name
            for prefix in ("coord_diag", "coord_softce_w1"):
                tally.add(f"{prefix}/{name}", getattr(terms, field.name), supervision.coord_weight.sum())
        tally.add("coord_diag/coord_tokens", num_coord, 0.0)
        tally.add("coord_diag/coord_tokens_per_sample", num_coord, num_samples)
        tally.add("coord_diag/loss_per_sample", terms.total, num_samples)
        tally.add("stage1/total_loss_per_sample_est", text_sum + terms.total, num_samples)


def _types(supervision: Supervision) -> Tensor:
    """Long[text rows and coordinate rows], index into `TOKEN_TYPES`."""
    return torch.cat((supervision.text_types, torch.full_like(supervision.coord_rows, TOKEN_TYPES.index("coord"))))


def _hits(rows: RowResult) -> tuple[Tensor, Tensor]:
    """(the target is the most likely token, it is among the likeliest) of text rows and coordinate rows."""
    return torch.cat((rows.text.is_hit, rows.coord.is_hit)), torch.cat((rows.text.num_above, rows.coord.num_above)) < _TOP


def _add_tokens(tally: Tally, rows: RowResult, supervision: Supervision) -> None:
    is_hit, is_top = _hits(rows)
    tally.add_mean("token_acc", is_hit)
    tally.add_mean("token_acc_top5", is_top)
    tally.add_mean("text_token_acc", is_hit, _types(supervision) != TOKEN_TYPES.index("coord"))


def _add_token_types(tally: Tally, rows: RowResult, supervision: Supervision) -> None:
    (is_hit, is_top), types = _hits(rows), _types(supervision)
    for index, name in enumerate(TOKEN_TYPES):
        where = types == index
        tally.add_mean(f"{name}_token_frac", where)
        tally.add_mean(f"{name}_token_acc", is_hit, where)
        tally.add_mean(f"{name}_token_acc_top5", is_top, where)
    mass = torch.cat((rows.text.coord_mass, rows.coord.coord_mass))
    is_coord_best = torch.cat((rows.text.is_coord_best, rows.coord.is_coord_best))
    is_text = types != TOKEN_TYPES.index("coord")
    for name, where in (("coord", ~is_text), ("text", is_text), ("format", types == 0), ("desc", types == 1)):
        flips = ~is_coord_best if name == "coord" else is_coord_best
        tally.add_mean(f"coord_monitor/flip_{name}_to_{'noncoord' if name == 'coord' else 'coord'}", flips, where)
        tally.add_mean(f"coord_monitor/coord_vocab_mass_at_gt_{name}", mass, where)


def _add_distribution(tally: Tally, rows: RowResult, supervision: Supervision) -> None:
    """Of p over the bins at each coordinate."""
    coord_logits, target_bins = rows.coord_logits.detach(), supervision.coord_bins
    if not len(target_bins):
        return
    tally.add_mean("coord_diag/coord_vocab_mass", rows.coord.coord_mass)
    p = torch.softmax(coord_logits, dim=-1)
    nearest = target_bins.round().long()
    bins = torch.arange(NUM_BINS, device=p.device, dtype=p.dtype)
    target_logit = coord_logits.gather(1, nearest[:, None])
    error = (p @ bins - target_bins).abs()
    tally.add_mean("coord_diag/acc_top5", (coord_logits > target_logit).sum(-1) < _TOP)
    tally.add_mean("coord_diag/p_gt_mean", p.gather(1, nearest[:, None])[:, 0])
    tally.add_mean("coord_diag/margin_mean", (coord_logits.max(-1, keepdim=True).values - target_logit)[:, 0])
    tally.add_mean("coord_diag/expected_bin_mae", error)
    tally.add_all("coord_diag/expected_bin_abs_err_p90", error)
    tally.add_mean("coord_diag/w1_to_delta", (p * (bins - target_bins[:, None]).abs()).sum(-1))
