"""Which parts of a Qwen3-VL are trained: language model, vision tower, and the aligner between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from coordexp.types.errors import ConfigError

PARTS = ("llm", "vit", "aligner")


@dataclass(frozen=True, slots=True)
class PartSize:
    """Parameters of one part."""

    name: str
    total: int
    trainable: int


def part_of(name: str) -> str:
    """The part of a parameter by its dotted name. Example: `part_of("model.visual.merger.norm.weight") == "aligner"`"""
    if ".merger." in name or ".deepstack_merger_list." in name:
        return "aligner"
    return "vit" if ".visual." in f".{name}" else "llm"


def freeze_parts(model: nn.Module, *, llm: bool = False, vit: bool = False, aligner: bool = False) -> tuple[PartSize, ...]:
    """Take parts out of training and count what is left. Tied embeddings belong to the language model.

    Raises:
        ConfigError: nothing is left to train.
    """
    frozen = {name for name, is_frozen in (("llm", llm), ("vit", vit), ("aligner", aligner)) if is_frozen}
    for name, parameter in model.named_parameters():
        if part_of(name) in frozen:
            parameter.requires_grad_(False)
    sizes = measure_parts(model)
    if not any(size.trainable for size in sizes):
        raise ConfigError("every part of the model is frozen", where="tuner", fix="leave out one of freeze_llm, freeze_vit, freeze_aligner")
    return sizes


def measure_parts(model: nn.Module) -> tuple[PartSize, ...]:
    """Parameters of each part, those of adapters on it included; a tied head counts once."""
    return tuple(_sizes(model))


def _sizes(model: nn.Module) -> Iterator[PartSize]:
    for part in PARTS:
        parameters = [parameter for name, parameter in model.named_parameters() if part_of(name) == part]
        total = sum(parameter.numel() for parameter in parameters)
        yield PartSize(part, total=total, trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad))
