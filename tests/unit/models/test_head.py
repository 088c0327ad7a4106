from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.models.head import Head, forward_through_head
from coordexp.models.load import load_model

torch.set_num_threads(1)
IDS = torch.tensor([[3, 7, 11, 5, 9, 2]])


@pytest.fixture
def make_model(tiny_folder: Path) -> Callable[[], Qwen3VLForConditionalGeneration]:
    return lambda: load_model(tiny_folder).model


def test_compute_sees_what_the_head_sees_and_its_result_comes_back(make_model) -> None:
    model = make_model()
    seen: list[torch.Tensor] = []

    def compute(hidden: torch.Tensor, head: Head) -> torch.Tensor:
        seen.append(head.logits(hidden))
        return seen[0].square().sum().reshape(1)

    result = forward_through_head(model, {"input_ids": IDS, "logits_to_keep": torch.tensor([1, 4])}, compute)
    expected = model(input_ids=IDS).logits[:, [1, 4]]
    assert torch.allclose(seen[0], expected, atol=1e-6)
    assert result.item() == seen[0].square().sum().item()


def test_gradients_are_those_of_a_plain_forward(make_model) -> None:
    model = make_model()
    forward_through_head(model, {"input_ids": IDS}, lambda hidden, head: head.logits(hidden).square().mean()).backward()
    through = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
    assert all(torch.equal(a, b) for a, b in zip(through, (p.grad for p in model.parameters() if p.grad is not None), strict=True))


def test_the_plain_head_is_back_afterwards_even_after_an_error(make_model) -> None:
    model = make_model()
    before = model(input_ids=IDS).logits

    def fail(hidden: torch.Tensor, head: Head) -> torch.Tensor:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        forward_through_head(model, {"input_ids": IDS}, fail)
    assert "forward" not in model.lm_head.__dict__
    assert torch.equal(model(input_ids=IDS).logits, before)


def linear(*, bias: bool = False) -> nn.Module:
    return nn.Linear(24, 50, bias=bias)


def wrapped(module: nn.Module, **settings: object) -> nn.Module:
    """`module` as PEFT leaves it inside a model, its new weights away from their start."""
    model = nn.Sequential()
    model.add_module("body", nn.Linear(24, 24))
    model.add_module("lm_head", module)
    adapted = get_peft_model(model, LoraConfig(**{"target_modules": ["lm_head"], "r": 4, "lora_alpha": 7, **settings}))  # pyright: ignore[reportArgumentType]
    head = adapted.base_model.model.lm_head
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return head


HEADS = {
    "linear": linear,
    "bias": lambda: linear(bias=True),
    "lora": lambda: wrapped(linear()),
    "lora with biases": lambda: wrapped(linear(bias=True), lora_bias=True),
    "dora": lambda: wrapped(linear(), use_dora=True),
    "dora with dropout": lambda: wrapped(linear(), use_dora=True, lora_dropout=0.3).eval(),
    "trained tokens": lambda: wrapped(linear(), target_modules=["body"], trainable_token_indices={"lm_head": [4, 9, 1]}),
    "saved module": lambda: wrapped(linear(), target_modules=["body"], modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_products_of_a_head_give_its_logits(name: str) -> None:
    torch.manual_seed(0)
    module, hidden = HEADS[name](), torch.randn(7, 24)
    head = Head(module)
    parts = head.products(hidden)
    assert parts is not None
    logits = parts.products[0].inputs @ parts.products[0].weight.t()
    if parts.rows is not None:
        assert parts.row_ids is not None
        logits = logits.index_copy(1, parts.row_ids, parts.products[0].inputs @ parts.rows.t())
    for product in parts.products[1:]:
        logits = logits + product.inputs @ product.weight.t()
    assert torch.allclose(logits, head.logits(hidden), atol=1e-6)


OTHERS = {
    "two layers": lambda: nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 50)),
    "dora beside a bias": lambda: wrapped(linear(bias=True), use_dora=True),
    "trained tokens beside a bias": lambda: wrapped(linear(bias=True), target_modules=["body"], trainable_token_indices={"lm_head": [4]}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_head_of_another_kind_has_no_products(name: str) -> None:
    assert Head(OTHERS[name]()).products(torch.randn(3, 24)) is None
