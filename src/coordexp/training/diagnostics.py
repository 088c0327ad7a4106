"""Stage-1 diagnostics, from what the loss read off the head, outside the gradient. One transfer from the device for each forward."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from coordexp.batching.collate import TOKEN_TYPES, Supervision
from coordexp.geometry.bins import NUM_BINS
from coordexp.losses.coordinates import CoordTerms
from coordexp.losses.rows import RowResult
from coordexp.metrics.registry import REGISTRY
from coordexp.types.metrics import Metric

_TOP = 5
_P90 = 0.9


class Tally:
    """(total, count) by key, kept on the device until `metrics` reads all of them at once."""

    def __init__(self, device: torch.device) -> None:
        self._keys: list[str] = []
        self._values: list[Tensor] = []
        self._device = device

    def add(self, key: str, total: Tensor | float, count: Tensor | float = 1.0) -> None:
        self._keys.append(key)
        self._values += [self._scalar(total), self._scalar(count)]

    def add_mean(self, key: str, values: Tensor, where: Tensor | None = None) -> None:
        """Mean of `values` over the rows that `where` selects, or over all."""
        if where is None:
            self.add(key, values.sum(dtype=torch.float64), values.numel())
        else:
            self.add(key, (values * where).sum(dtype=torch.float64), where.sum())

    def metrics(self) -> dict[str, Metric]:
        """Raises `UnknownMetricError` for a key that is not registered."""
        numbers = torch.stack(self._values).tolist()
        pairs = zip(self._keys, numbers[::2], numbers[1::2], strict=True)
        return {key: Metric(total=total, count=count, reduction=REGISTRY.get(key).reduction) for key, total, count in pairs}

    def _scalar(self, value: Tensor | float) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(torch.float64)
        return torch.tensor(value, dtype=torch.float64, device=self._device)


class Stage1Monitor:
    """All Stage-1 metrics of one forward. Keys counted per optimizer step have count 0 here; the trainer adds the step."""

    def __init__(self, *, is_enabled: bool, by_token_type: bool) -> None:
        self._is_enabled = is_enabled
        self._by_token_type = by_token_type

    @torch.no_grad()
    def __call__(self, rows: RowResult, terms: CoordTerms, supervision: Supervision, *, num_samples: int) -> dict[str, Metric]:
        tally = Tally(rows.text_ce.device)
        self._add_losses(tally, rows, terms, supervision, num_samples)
        if supervision.coord_rows.numel():
            _add_distribution(tally, rows.coord_logits.detach(), supervision.coord_bins)
        self._add_tokens(tally, rows, supervision)
        tally.add("pack/num_samples", num_samples)
        return tally.metrics()

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

    def _add_tokens(self, tally: Tally, rows: RowResult, supervision: Supervision) -> None:
        is_hit = torch.cat((rows.text.is_hit, rows.coord.is_hit))
        is_top = torch.cat((rows.text.num_above, rows.coord.num_above)) < _TOP
        coord_type = TOKEN_TYPES.index("coord")
        types = torch.cat((supervision.text_types, torch.full_like(supervision.coord_rows, coord_type)))
        is_text = types != coord_type
        tally.add_mean("token_acc", is_hit)
        tally.add_mean("token_acc_top5", is_top)
        tally.add_mean("text_token_acc", is_hit, is_text)
        tally.add_mean("coord_diag/coord_vocab_mass", rows.coord.coord_mass)
        if not self._by_token_type:
            return
        for index, name in enumerate(TOKEN_TYPES):
            where = types == index
            tally.add_mean(f"{name}_token_frac", where)
            tally.add_mean(f"{name}_token_acc", is_hit, where)
            tally.add_mean(f"{name}_token_acc_top5", is_top, where)
        mass = torch.cat((rows.text.coord_mass, rows.coord.coord_mass))
        is_coord_best = torch.cat((rows.text.is_coord_best, rows.coord.is_coord_best))
        for name, where in (("coord", ~is_text), ("text", is_text), ("format", types == 0), ("desc", types == 1)):
            flips = ~is_coord_best if name == "coord" else is_coord_best
            tally.add_mean(f"coord_monitor/flip_{name}_to_{'noncoord' if name == 'coord' else 'coord'}", flips, where)
            tally.add_mean(f"coord_monitor/coord_vocab_mass_at_gt_{name}", mass, where)


def _add_distribution(tally: Tally, coord_logits: Tensor, target_bins: Tensor) -> None:
    """Diagnostics of p over the bins at each coordinate."""
    p = torch.softmax(coord_logits, dim=-1)
    nearest = target_bins.round().long()
    bins = torch.arange(NUM_BINS, device=p.device, dtype=p.dtype)
    target_logit = coord_logits.gather(1, nearest[:, None])
    error = (p @ bins - target_bins).abs()
    tally.add_mean("coord_diag/acc_top5", (coord_logits > target_logit).sum(-1) < _TOP)
    tally.add_mean("coord_diag/p_gt_mean", p.gather(1, nearest[:, None])[:, 0])
    tally.add_mean("coord_diag/margin_mean", (coord_logits.max(-1, keepdim=True).values - target_logit)[:, 0])
    tally.add_mean("coord_diag/expected_bin_mae", error)
    tally.add("coord_diag/expected_bin_abs_err_p90", torch.quantile(error, _P90) * error.numel(), error.numel())
    tally.add_mean("coord_diag/w1_to_delta", (p * (bins - target_bins[:, None]).abs()).sum(-1))
