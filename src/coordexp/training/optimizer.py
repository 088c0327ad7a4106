"""Parameter groups with learning rates by part of the model; weight decay spares norms and biases, as in Trainer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from coordexp.models.parts import PARTS, part_of


@dataclass(frozen=True, slots=True)
class PartRates:
    """Learning rates of their own; None: that of the language model. Example: `PartRates(vit=2e-6)`"""

    vit: float | None = None
    aligner: float | None = None

    def rate_of(self, part: str, *, default: float) -> float:
        own = {"vit": self.vit, "aligner": self.aligner}.get(part)
        return default if own is None else own


def parameter_groups(model: nn.Module, *, rates: PartRates, learning_rate: float, weight_decay: float, decayed: Collection[str]) -> list[dict[str, Any]]:
    """Groups for an optimizer, the language model's first: the logged learning rate is that of the first group.

    Args:
        model: as it is trained, adapters included.
        rates: by part.
        learning_rate: of everything else.
        weight_decay: of the parameters in `decayed`.
        decayed: names of parameters.

    Returns:
        `params`, `lr`, `weight_decay` and `part`; groups without parameters are left out.
    """
    names = set(decayed)
    groups: list[dict[str, Any]] = []
    for part in PARTS:
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad and part_of(name) == part]
        for is_decayed in (True, False):
            params = [parameter for name, parameter in trained if (name in names) == is_decayed]
            rate = rates.rate_of(part, default=learning_rate)
            groups.append({"params": params, "lr": rate, "weight_decay": weight_decay if is_decayed else 0.0, "part": part})
    return [group for group in groups if group["params"]]
