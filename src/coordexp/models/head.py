"""The output head of a model, whatever wraps it, and a forward that ends in a loss in place of logits.

The loss runs where the head is: inside the forward of the outermost module, where sharded weights are gathered, autocast is on, and DDP sees what it must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from coordexp.losses.rows import HeadProducts, Product


class Head:
    """A head as losses see it (`coordexp.losses.rows.OutputHead`). Lives as long as the forward it was made in: weights may be gathered for it only."""

    def __init__(self, module: nn.Module, *, forward: Callable[[Tensor], Tensor] | None = None) -> None:
        self._module = module
        self._forward = forward or module.forward

    def logits(self, hidden: Tensor) -> Tensor:
        """Through the module's own code, adapters and all."""
        return self._forward(hidden)

    def products(self, hidden: Tensor) -> HeadProducts | None:
        """Plain linear layers, LoRA, DoRA, trained token rows; None for anything else."""
        return _products(self._module, hidden)


def forward_through_head(model: nn.Module, inputs: Mapping[str, Any], compute: Callable[[Tensor, Head], Tensor]) -> Tensor:
    """Run `model(**inputs)` with `compute(hidden, head)` in the place of its output head.

    Not to be called while another thread generates with the same model.

    Args:
        model: a causal model, alone or inside PEFT, DDP or FSDP2.
        inputs: of its forward; `logits_to_keep` selects the columns of `hidden`.
        compute: gets Float[Tensor, "rows columns width"].

    Returns:
        What `compute` returned, as the wrappers passed it on: backward goes through this one.
    """
    inner = extract_model_from_parallel(model)
    head = inner.get_output_embeddings()
    with _replaced_forward(head, compute):
        # with a cache the second sample of a packed row is silently wrong
        return model(**inputs, use_cache=False).logits


@contextmanager
def _replaced_forward(module: nn.Module, compute: Callable[[Tensor, Head], Tensor]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    head = Head(module, forward=module.forward)
    module.forward = lambda hidden: compute(hidden, head)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _products(module: nn.Module, hidden: Tensor) -> HeadProducts | None:
    if type(module) is nn.Linear:
        return HeadProducts((Product(hidden, module.weight), *_bias(hidden, module.bias)))
    if isinstance(module, ModulesToSaveWrapper):
        return _products(_saved(module), hidden)
    if isinstance(module, TrainableTokensWrapper):
        return _trained_tokens(module.token_adapter, hidden)
    if isinstance(module, TrainableTokensLayer):
        return _trained_tokens(module, hidden)
    if isinstance(module, LoraLinear):
        return _lora(module, hidden)
    return None


def _bias(hidden: Tensor, bias: Tensor | None, *, factor: float = 1.0) -> tuple[Product, ...]:
    return () if bias is None else (Product(hidden.new_full((len(hidden), 1), factor), bias[:, None]),)


def _saved(module: ModulesToSaveWrapper) -> nn.Module:
    active: Any = module.active_adapters
    return module.modules_to_save[active[0]] if active and not module.disable_adapters else module.original_module


def _trained_tokens(layer: TrainableTokensLayer, hidden: Tensor) -> HeadProducts | None:
    base = _products(layer.base_layer, hidden)
    names = [name for name in layer.active_adapters if name in layer.token_indices]
    if base is None or layer.merged or layer.disable_adapters or not names:
        return base
    first, *others = base.products
    if others:
        return None
    ids = torch.tensor([index for name in names for index in layer.token_indices[name]], device=hidden.device)
    rows = torch.cat([layer.trainable_tokens_delta[name] for name in names])
    return HeadProducts(base.products, ids, rows.to(first.weight.dtype))


def _lora(layer: LoraLinear, hidden: Tensor) -> HeadProducts | None:
    base = _products(layer.base_layer, hidden)
    if base is None or layer.merged or layer.disable_adapters:
        return base
    products = base.products
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        variant = layer.lora_variant.get(name)
        if variant is None:
            products = (*products, *_low_rank(layer, name, hidden))
        elif DoraLinearVariant in (variant, type(variant)) and len(products) == 1 and base.rows is None:
            products = (*products, _dora(layer, name, products[0].weight, hidden))
        else:
            return None
    return HeadProducts(products, base.row_ids, base.rows)


def _low_rank(layer: LoraLinear, name: str, hidden: Tensor) -> tuple[Product, ...]:
    """B A dropout(x), scaled."""
    down, up = _linear(layer.lora_A[name]), _linear(layer.lora_B[name])
    reduced = down(layer.lora_dropout[name](hidden.to(down.weight.dtype)))
    return (Product(reduced * layer.scaling[name], up.weight), *_bias(hidden, up.bias, factor=layer.scaling[name]))


def _linear(module: nn.Module) -> nn.Linear:
    assert isinstance(module, nn.Linear)
    return module


def _dora(layer: LoraLinear, name: str, weight: Tensor, hidden: Tensor) -> Product:
    """(m / |W + sBA| - 1) W x + (m / |W + sBA|) sBA x, the norm of each row outside the gradient; x after dropout. This one does form a weight."""
    magnitude: Any = layer.lora_magnitude_vector[name]
    update = (_linear(layer.lora_B[name]).weight @ _linear(layer.lora_A[name]).weight) * layer.scaling[name]
    weight = weight.to(update.dtype)
    norm = magnitude.get_weight_norm(weight, update.detach(), scaling=1).detach()
    ratio = (magnitude.weight / norm)[:, None]
    effective = (ratio - 1) * weight + ratio * update
    return Product(layer.lora_dropout[name](hidden.to(effective.dtype)), effective)
