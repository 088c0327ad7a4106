"""Memory of a training on one device, estimated before it starts. An estimate: allocators keep more, and libraries bring their own buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

_LOGIT_COPIES = 3
"""Logits, their softmax and its gradient, in float32."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def estimate_memory(model: nn.Module, *, optim: str, text_tokens: int, patches: int, logit_rows: int, is_half: bool, is_checkpointed: bool) -> MemoryEstimate:
    """Of the largest forward and its backward.

    weights = all parameters; gradients = trained ones; optimizer = two moments of the trained ones (8-bit optimizers: 2 bytes a parameter, SGD: none);
    activations = what `layer_bytes` says for each token and layer of the language model and each patch and layer of the vision tower; with gradient
    checkpointing that of one layer, and the input of every layer; logits = rows with vocabulary logits · vocabulary · 4 bytes · 3.

    Args:
        model: a Qwen3-VL with the parameters that will be trained marked.
        optim: name of the optimizer in TrainingArguments.
        text_tokens: of the largest forward, image placeholders and padding included.
        patches: of its images, before merging.
        logit_rows: positions whose logits over the vocabulary are held at once.
        is_half: activations have 16 bits (autocast, or weights of 16 bits).
        is_checkpointed: gradient checkpointing.
    """
    config: Any = model.config
    text, vision, size = config.text_config, config.vision_config, 2 if is_half else 4
    towers = (
        (text_tokens, text.num_hidden_layers, text.hidden_size, text_layer_bytes(text, size=size)),
        (patches, vision.depth, vision.hidden_size, vision_layer_bytes(vision, size=size)),
    )
    activations = sum(tokens * (layers * hidden * size + own if is_checkpointed else layers * own) for tokens, layers, hidden, own in towers)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return MemoryEstimate(
        weights=sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
        gradients=sum(parameter.numel() * parameter.element_size() for parameter in trained),
        optimizer=sum(_optimizer_bytes(parameter.numel(), parameter.element_size(), optim) for parameter in trained),
        activations=activations,
        logits=logit_rows * text.vocab_size * 4 * _LOGIT_COPIES,
    )


def text_layer_bytes(text: Any, *, size: int) -> int:
    """What a layer of the language model keeps of a token for its backward: outputs of its two norms; queries, keys, values and what attention gives;
    gate, its activation, up and their product; and two float32 arrays inside each norm, those of queries and keys included. No attention map: the fused
    kernels keep none.
    """
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    return size * (2 * text.hidden_size + 2 * queries + 2 * keys + 4 * text.intermediate_size) + 8 * (2 * text.hidden_size + queries + keys)


def vision_layer_bytes(vision: Any, *, size: int) -> int:
    """The same for a patch in a layer of the vision tower, whose MLP has no gate and whose norms keep their input."""
    return size * (8 * vision.hidden_size + 2 * vision.intermediate_size)


def _optimizer_bytes(count: int, size: int, optim: str) -> int:
    if "8bit" in optim:
        return 2 * count
    return 0 if optim == "sgd" else 2 * count * size
