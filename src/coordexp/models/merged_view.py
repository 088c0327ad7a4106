"""The weights of a model in training as a plain checkpoint would hold them, adapters merged: made out of place, tensor by tensor.

Same numbers as `coordexp.models.merge`, to the last bit; the model that is trained is not touched, so nothing has to be undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from coordexp.types.errors import ConfigError


def merged_tensors(model: nn.Module, *, dtype: torch.dtype | None = None, merges: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Name in the checkpoint → tensor, in the order of the model, each shared matrix once. What needs no merging is the model's own tensor, not a copy.

    Args:
        model: plain, or a `PeftModel` around it.
        dtype: of the tensors; that of the training by default.
        merges: False leaves the adapter out: the weights that it lies on.

    Raises:
        ConfigError: a LoRA lies on the matrix that embedding and head share: merged they would be two.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if merges:
        _refuse_tied_lora(base)
    seen: set[int] = set()
    with torch.no_grad():
        for name, owner, tensor in _walk(base, prefix=""):
            if id(owner) in seen:
                continue
            seen.add(id(owner))
            merged = tensor() if merges else owner
            yield name, merged.detach().to(dtype or merged.dtype)


def _walk(module: nn.Module, *, prefix: str) -> Iterator[tuple[str, nn.Parameter, Any]]:
    """(name, parameter of the base model that it stands for, function that makes the tensor)."""
    if isinstance(module, ModulesToSaveWrapper):
        active: Any = module.active_adapters
        yield from _walk(module.modules_to_save[active[0]], prefix=prefix)
        return
    if isinstance(module, TrainableTokensWrapper):
        yield from _walk(module.token_adapter, prefix=prefix)
        return
    if isinstance(module, TrainableTokensLayer | LoraLayer):
        layer: Any = module
        own: Any = layer.get_base_layer()
        for name, parameter in own.named_parameters(recurse=False):
            make = (lambda layer=layer: _merged_weight(layer)) if name == "weight" else (lambda parameter=parameter: parameter)
            yield prefix + name, parameter, make
        return
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter, lambda parameter=parameter: parameter
    for name, child in module.named_children():
        yield from _walk(child, prefix=f"{prefix}{name}.")


def _merged_weight(layer: Any) -> Tensor:
    """The arithmetic of PEFT's own `merge(safe_merge=True)`."""
    if isinstance(layer, TrainableTokensLayer):
        return layer.get_merged_weights(layer.active_adapters)
    weight = layer.get_base_layer().weight.detach().clone()
    for name in layer.active_adapters:
        if name not in layer.lora_A and name not in layer.lora_embedding_A:
            continue
        variant = layer.lora_variant.get(name)
        if variant is None:
            weight += layer.get_delta_weight(name).to(weight.dtype)
        else:
            weight = variant.merge_safe(layer, name, weight)
            # what PEFT remembers for undoing a merge, which here was none
            layer._caches.pop(f"{name}-weight_norm", None)
    return weight


def _refuse_tied_lora(base: Any) -> None:
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    if head is None or not any(isinstance(module, LoraLayer) for module in (embedding, head)):
        return
    inner = [module.get_base_layer() if isinstance(module, LoraLayer) else module for module in (embedding, head)]
    if inner[0].weight is inner[1].weight:
        what = "a LoRA lies on the matrix that embedding and head share: with it merged they are two, and the servers have one"
        raise ConfigError(what, where="tuner.target_modules", fix="leave out embed_tokens and lm_head, or train coordinate rows (custom.coord_offset)")
