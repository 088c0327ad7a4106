from __future__ import annotations

import math

import pytest
import torch

from coordexp.losses.expected import distance_to_target, entropy, expected_huber, expected_l1

torch.set_num_threads(1)
TARGETS = torch.tensor([0.0, 999.0, 417.25, 500.0], dtype=torch.float64)


def logits(*, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(len(TARGETS), 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_terms_equal_their_formulas_in_float64() -> None:
    p, log_p = logits().softmax(-1), logits().log_softmax(-1)
    distance = distance_to_target(TARGETS)
    for row, target in enumerate(TARGETS.tolist()):
        pairs = [(p[row, k].item(), abs(k - target) / 999) for k in range(1000)]
        huber = math.fsum(q * (0.5 * d * d / 0.05 if d < 0.05 else d - 0.025) for q, d in pairs)
        assert expected_l1(p, distance)[row].item() == pytest.approx(math.fsum(q * d for q, d in pairs), abs=1e-12)
        assert expected_huber(p, distance, beta=0.05)[row].item() == pytest.approx(huber, abs=1e-12)
        assert entropy(log_p)[row].item() == pytest.approx(-math.fsum(q * math.log(q) for q, _ in pairs), abs=1e-12)


def test_float32_terms_are_within_1e_6() -> None:
    single, distance = logits().float(), distance_to_target(TARGETS)
    torch.testing.assert_close(expected_l1(single.softmax(-1), distance.float()).double(), expected_l1(logits().softmax(-1), distance), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(entropy(single.log_softmax(-1)).double(), entropy(logits().log_softmax(-1)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("term", ["l1", "huber", "entropy"])
def test_gradients_pass_gradcheck(term: str) -> None:
    distance = distance_to_target(TARGETS[:2])

    def loss(z: torch.Tensor) -> torch.Tensor:
        if term == "entropy":
            return entropy(z.log_softmax(-1))
        p = z.softmax(-1)
        return expected_l1(p, distance) if term == "l1" else expected_huber(p, distance, beta=0.05)

    assert torch.autograd.gradcheck(loss, (logits()[:2].requires_grad_(),))


def test_all_mass_on_the_target_costs_nothing() -> None:
    certain = torch.full((1, 1000), -torch.inf).requires_grad_()
    certain.data[0, 42] = 0.0
    distance = distance_to_target(torch.tensor([42.0]))
    total = expected_l1(certain.softmax(-1), distance) + expected_huber(certain.softmax(-1), distance, beta=0.1) + entropy(certain.log_softmax(-1))
    assert total.item() == 0
    (gradient,) = torch.autograd.grad(total.sum(), certain)
    assert torch.isfinite(gradient).all()
