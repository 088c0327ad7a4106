from __future__ import annotations

import math

import pytest
import torch

from coordexp.losses.tokens import cross_entropy_rows

torch.set_num_threads(1)


def test_the_weighted_sum_equals_the_direct_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(5, 30, generator=generator, dtype=torch.float64)
    targets = torch.tensor([0, 29, 3, 3, 17])
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    direct = 0.0
    for i in range(5):
        row = logits[i].tolist()
        direct += weight[i].item() * (math.log(math.fsum(math.exp(z) for z in row)) - row[targets[i]])
    assert (weight.float() * cross_entropy_rows(logits.float(), targets)).sum().item() == pytest.approx(direct, rel=1e-6)


def test_gradients_pass_gradcheck() -> None:
    logits = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    targets, weight = torch.tensor([1, 0, 11, 5]), torch.tensor([1.0, 0.3, 0.0, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: (weight * cross_entropy_rows(z, targets)).sum(), (logits,))


def test_no_tokens_give_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 12, requires_grad=True)
    loss = cross_entropy_rows(logits, torch.zeros(0, dtype=torch.long)).sum()
    loss.backward()
    assert loss.item() == 0.0


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(4, 12).bfloat16()
    loss = cross_entropy_rows(logits, torch.tensor([1, 2, 3, 4]))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, cross_entropy_rows(logits.float(), torch.tensor([1, 2, 3, 4])))
