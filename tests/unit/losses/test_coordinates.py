from __future__ import annotations

import math

import pytest
import torch

from coordexp.losses.coordinates import (
    CoordLossWeights,
    coordinate_gate,
    coordinate_terms,
    gaussian_targets,
    hard_cross_entropy,
    soft_cross_entropy,
    wasserstein_1,
)

torch.set_num_threads(1)
BINS = 1000


def random_case(rows: int, *, seed: int = 0, vocab: int = 1400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits over a vocabulary, ids of the coordinate columns in scattered order, real-valued targets, weights: float64, all exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    ids = torch.randperm(vocab, generator=generator)[:BINS]
    targets = torch.rand(rows, generator=generator, dtype=torch.float64) * 999
    targets[:3] = torch.tensor([0.0, 999.0, 417.0])[:rows]
    weight = torch.rand(rows, generator=generator, dtype=torch.float64)
    return logits.float().double(), ids, targets.float().double(), weight.float().double()


def direct_row(logits: list[float], ids: list[int], target: float, *, temperature: float, sigma: float, truncate: float) -> dict[str, float]:
    """The formulas of one row, written with loops over Python floats."""
    coord = [logits[i] for i in ids]
    peak = max(coord)
    exps = [math.exp(z - peak) for z in coord]
    p = [e / math.fsum(exps) for e in exps]
    raw = [math.exp(-((k - target) ** 2) / (2 * sigma**2)) if abs(k - target) <= truncate else 0.0 for k in range(BINS)]
    q = [r / math.fsum(raw) for r in raw]
    w1, cdf_p, cdf_q = 0.0, 0.0, 0.0
    for k in range(BINS):
        cdf_p, cdf_q = cdf_p + p[k], cdf_q + q[k]
        w1 += abs(cdf_p - cdf_q)
    lower = min(int(target), 998)
    share = target - lower
    mass = math.fsum(math.exp(z / temperature) for z in coord) / math.fsum(math.exp(z / temperature) for z in logits)
    return {
        "soft_ce": -math.fsum(q[k] * math.log(p[k]) for k in range(BINS) if q[k] > 0),
        "w1": w1 / 999,
        "ce": -((1 - share) * math.log(p[lower]) + share * math.log(p[lower + 1])),
        "gate": -math.log(mass),
    }


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_float32_terms_equal_the_direct_formula_in_float64(temperature: float) -> None:
    logits, ids, targets, weight = random_case(6)
    weights = CoordLossWeights(ce=0.5, temperature=temperature)
    single = logits.float()
    lse = torch.logsumexp(single / temperature, dim=-1)
    terms = coordinate_terms(single[:, ids], lse, targets.float(), weight.float(), weights=weights)
    rows = [direct_row(logits[i].tolist(), ids.tolist(), targets[i].item(), temperature=temperature, sigma=2.0, truncate=16.0) for i in range(6)]
    for name in ("soft_ce", "w1", "ce", "gate"):
        expected = math.fsum(w * row[name] for w, row in zip(weight.tolist(), rows, strict=True))
        assert getattr(terms, name).item() == pytest.approx(expected, rel=1e-6, abs=1e-6), name
    mixed = (terms.soft_ce + terms.w1 + 0.5 * terms.ce + terms.gate).item()
    assert terms.total.item() == pytest.approx(mixed, rel=1e-6)


def test_float32_gradients_equal_those_in_float64() -> None:
    logits, ids, targets, weight = random_case(8, seed=3)
    weights = CoordLossWeights(ce=0.3, gate=0.7, temperature=1.3)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        z = logits.to(dtype).requires_grad_()
        terms = coordinate_terms(z[:, ids], torch.logsumexp(z / 1.3, dim=-1), targets.to(dtype), weight.to(dtype), weights=weights)
        (gradient,) = torch.autograd.grad(terms.total, z)
        gradients.append(gradient.double())
    assert (gradients[0] - gradients[1]).abs().max().item() < 1e-6


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(lambda z, t, q: soft_cross_entropy(torch.log_softmax(z, -1), q), id="soft_ce"),
        pytest.param(lambda z, t, q: wasserstein_1(torch.softmax(z, -1), q), id="w1"),
        pytest.param(lambda z, t, q: hard_cross_entropy(torch.log_softmax(z, -1), t), id="ce"),
        pytest.param(lambda z, t, q: coordinate_gate(z, torch.logsumexp(torch.cat((z, -z[:, :50]), -1) / 1.5, -1), temperature=1.5), id="gate"),
    ],
)
def test_analytic_gradients_equal_numeric_ones(term) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, BINS, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.tensor([3.25, 640.0], dtype=torch.float64)
    q = gaussian_targets(t, sigma=2.0, truncate=16.0)
    assert torch.autograd.gradcheck(lambda z: term(z, t, q).sum(), (z,), eps=1e-6, atol=1e-6, fast_mode=True)


def test_the_whole_mix_passes_gradcheck_through_scattered_columns() -> None:
    logits, ids, targets, weight = random_case(2, seed=5, vocab=1010)
    weights = CoordLossWeights(ce=1.0, temperature=0.8)

    def total(z: torch.Tensor) -> torch.Tensor:
        return coordinate_terms(z[:, ids], torch.logsumexp(z / 0.8, dim=-1), targets, weight, weights=weights).total

    assert torch.autograd.gradcheck(total, (logits.requires_grad_(),), eps=1e-6, atol=1e-6, fast_mode=True)


def test_targets_are_normalized_and_cut() -> None:
    targets = torch.tensor([0.0, 999.0, 412.5, 7.3], dtype=torch.float64)
    q = gaussian_targets(targets, sigma=2.0, truncate=16.0)
    assert torch.allclose(q.sum(-1), torch.ones(4, dtype=torch.float64))
    assert q[2].nonzero().flatten().tolist() == list(range(397, 429))
    assert q[2, 412] == q[2, 413]
    assert (q[0, :17] > 0).all()
    assert q[0, 17:].sum() == 0


def test_pure_ce_and_gate_equal_cross_entropy_over_the_whole_vocabulary() -> None:
    logits, ids, _, weight = random_case(5, seed=9)
    bins = torch.tensor([0, 999, 5, 500, 731])
    weights = CoordLossWeights(soft_ce=0.0, w1=0.0, ce=1.0, gate=1.0)
    terms = coordinate_terms(logits[:, ids], torch.logsumexp(logits, -1), bins.double(), weight, weights=weights)
    expected = (weight * torch.nn.functional.cross_entropy(logits, ids[bins], reduction="none")).sum()
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_term_outside_the_mix_is_logged_but_has_no_gradient() -> None:
    logits, ids, targets, weight = random_case(3)
    z = logits.requires_grad_()
    terms = coordinate_terms(z[:, ids], torch.logsumexp(z, -1), targets, weight, weights=CoordLossWeights(soft_ce=0.0, w1=0.0, ce=1.0, gate=0.0))
    assert terms.gate.item() > 0
    assert not terms.gate.requires_grad
    (gradient,) = torch.autograd.grad(terms.total, z)
    outside = torch.ones(z.shape[1], dtype=torch.bool)
    outside[ids] = False
    assert gradient[:, outside].abs().max() == 0


def test_no_rows_give_zero_with_a_gradient() -> None:
    z = torch.randn(0, BINS, requires_grad=True)
    terms = coordinate_terms(z, torch.zeros(0), torch.zeros(0), torch.zeros(0), weights=CoordLossWeights())
    terms.total.backward()
    assert terms.total.item() == 0.0


def test_half_precision_is_computed_in_float32() -> None:
    logits, ids, targets, weight = random_case(4)
    half = logits[:, ids].bfloat16()
    lse = torch.logsumexp(logits.float(), -1)
    low = coordinate_terms(half, lse, targets.float(), weight.float(), weights=CoordLossWeights())
    high = coordinate_terms(half.float(), lse, targets.float(), weight.float(), weights=CoordLossWeights())
    assert low.total.dtype == torch.float32
    assert low.total.item() == high.total.item()


@pytest.mark.parametrize("bad", [{"soft_ce": -1.0}, {"temperature": 0.0}, {"target_sigma": 0.0}, {"target_truncate": 0.4}])
def test_impossible_weights_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        CoordLossWeights(**bad)
