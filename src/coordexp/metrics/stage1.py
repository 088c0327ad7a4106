"""The keys of Stage-1. Meanings are complete sentences' worth: the reference page is made from them."""

from __future__ import annotations

from typing import Final

from coordexp.metrics.specs import MetricSpec, RunKind
from coordexp.types.metrics import Reduction

STAGE1: Final = frozenset({RunKind.STAGE1})
TOKEN_TYPE_SETTING: Final = "custom.token_type_metrics.enabled"
COORDINATES: Final = "coordinate tokens"
_TYPES: Final = {"desc": "inside a desc value", "format": "rest of the JSON and the end token", "coord": "coordinate tokens"}
_PLACES: Final = {"coord": "coordinate", "text": "other (desc and format)", "format": "format", "desc": "desc"}


def _mean(key: str, meaning: str, *, needs: str = "", in_eval: bool = True, over: str = "") -> MetricSpec:
    return MetricSpec(key, meaning, Reduction.MEAN, STAGE1, in_eval=in_eval, needs=needs, over=over)


def _last(key: str, meaning: str, *, in_eval: bool = False) -> MetricSpec:
    return MetricSpec(key, meaning, Reduction.LAST, STAGE1, in_eval=in_eval)


def _tokens() -> tuple[MetricSpec, ...]:
    return (
        _mean("token_acc", "share of supervised next-token positions, coordinates included, whose most likely token is the target"),
        _mean("token_acc_top5", "the same with the target among the five most likely tokens"),
        _mean("text_token_acc", "token_acc over the positions whose target is not a coordinate token"),
        _mean("base_ce/loss", "mean cross-entropy over the whole vocabulary, per supervised token that is not a coordinate"),
        _mean("base_ce/noncoord_tokens", "supervised tokens that are not coordinates, per optimizer step"),
        _mean("base_ce/noncoord_tokens_per_sample", "the same per sample"),
        _mean("base_ce/loss_per_sample", "sum of that cross-entropy per sample"),
    )


def _slots(prefix: str) -> tuple[MetricSpec, ...]:
    older = "" if prefix == "coord_diag" else "; same value as coord_diag/{}, an older name"
    meanings = {
        "loss": "weighted sum of the coordinate terms, mean per coordinate",
        "soft_ce": "-sum_k q_k log p_k against the Gaussian target q, mean per coordinate, unweighted",
        "w1": "sum_k |CDF_p(k) - CDF_q(k)| / 999, mean per coordinate, unweighted",
        "ce": "-log p[t] among the coordinate tokens, mean per coordinate, unweighted",
        "gate": "-log of the probability mass on coordinate tokens (at the gate's temperature), mean per coordinate, unweighted",
    }
    return tuple(_mean(f"{prefix}/{name}", meaning + older.format(name), over=COORDINATES) for name, meaning in meanings.items())


def _coordinates() -> tuple[MetricSpec, ...]:
    return (
        _last("coord_diag/enabled", "1 when the coordinate losses are on; 0 when coordinates are trained by plain cross-entropy", in_eval=True),
        *_slots("coord_diag"),
        _mean("coord_diag/coord_vocab_mass", "probability on the coordinate tokens at coordinate positions", over=COORDINATES),
        _mean("coord_diag/coord_tokens", "supervised coordinates per optimizer step"),
        _mean("coord_diag/acc_top5", "share of coordinates whose target bin is among the five most likely bins", over=COORDINATES),
        _mean("coord_diag/p_gt_mean", "probability of the target bin among the coordinate tokens", over=COORDINATES),
        _mean("coord_diag/margin_mean", "largest logit minus the target's logit, among the coordinate tokens", over=COORDINATES),
        _mean("coord_diag/expected_bin_mae", "|sum_k k p_k - t|, in bins", over=COORDINATES),
        MetricSpec(
            "coord_diag/expected_bin_abs_err_p90",
            "90th percentile of |sum_k k p_k - t| over all coordinates, in bins",
            Reduction.P90,
            STAGE1,
            in_eval=True,
            over=COORDINATES,
        ),
        _mean("coord_diag/w1_to_delta", "E_p |k - t|: the Wasserstein-1 distance to the target bin itself, in bins", over=COORDINATES),
        _mean("coord_diag/coord_tokens_per_sample", "supervised coordinates per sample"),
        _mean("coord_diag/loss_per_sample", "sum of coord_diag/loss per sample"),
        *_slots("coord_softce_w1"),
        _mean("stage1/total_loss_per_sample_est", "base_ce/loss_per_sample + coord_diag/loss_per_sample"),
    )


def _by_type() -> tuple[MetricSpec, ...]:
    specs: list[MetricSpec] = []
    for name, words in _TYPES.items():
        specs.append(
            _mean(f"{name}_token_frac", f"share of supervised next-token positions whose target is of type {name} ({words})", needs=TOKEN_TYPE_SETTING)
        )
        specs.append(_mean(f"{name}_token_acc", f"token_acc over the positions of type {name}", needs=TOKEN_TYPE_SETTING))
        specs.append(_mean(f"{name}_token_acc_top5", f"token_acc_top5 over the positions of type {name}", needs=TOKEN_TYPE_SETTING))
    for source, place in _PLACES.items():
        target = "noncoord" if source == "coord" else "coord"
        words = "not a coordinate token" if source == "coord" else "a coordinate token"
        key = f"coord_monitor/flip_{source}_to_{target}"
        specs.append(_mean(key, f"share of {place} positions whose most likely token is {words}", needs=TOKEN_TYPE_SETTING))
        key = f"coord_monitor/coord_vocab_mass_at_gt_{source}"
        specs.append(_mean(key, f"probability on the coordinate tokens at {place} positions", needs=TOKEN_TYPE_SETTING))
    return tuple(specs)


def _bookkeeping() -> tuple[MetricSpec, ...]:
    return (
        _mean("pack/num_samples", "samples that share one forward", in_eval=False),
        _last("accum/grad_steps", "forwards of an optimizer step on each device, as configured"),
        _last("accum/current_grad_steps", "forwards of this optimizer step on this device; fewer at the end of an epoch"),
    )


STAGE1_METRICS: Final = (*_tokens(), *_coordinates(), *_by_type(), *_bookkeeping())
