"""Adapters by PEFT: LoRA and DoRA on linear layers, and the 1,000 coordinate rows of embedding and head, alone or together.

The layers are put into the model of a `LoadedModel`, so whoever holds it (generation, evaluation) sees the adapted model; the trainer gets the
`PeftModel` around it.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TrainableTokensConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from coordexp.models.parts import part_of
from coordexp.types.errors import ConfigError

EMBEDDING, HEAD = "embed_tokens", "lm_head"


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """Example: `LoraSpec(rank=16, alpha=32.0, use_dora=True)`"""

    rank: int
    alpha: float
    dropout: float = 0.0
    use_dora: bool = False
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Last parts of module names (`q_proj`, `layers.0.mlp.up_proj`); `all-linear`: every linear layer but the head."""
    frozen_parts: frozenset[str] = frozenset()
    """Parts of the model (`coordexp.models.parts.PARTS`) that get no LoRA."""


@dataclass(frozen=True, slots=True)
class RowsSpec:
    """The coordinate rows; everything else of embedding and head stays as it is."""

    ids: tuple[int, ...]
    """Vocabulary ids of the coordinate tokens."""
    tie_head: bool = True
    """One table for embedding and head; False: two."""


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What is trained on top of a frozen model; at least one of the two."""

    lora: LoraSpec | None = None
    rows: RowsSpec | None = None


def add_adapter(model: PreTrainedModel, spec: AdapterSpec, *, base: Path, seed: int) -> PeftModel:
    """Freeze the model and put a trainable adapter into it; it computes what it computed before.

    Args:
        model: changed in place.
        spec: of the adapter.
        base: folder of the model, which saved adapters name.
        seed: of LoRA's first matrices; the random state of the caller is left as it was.

    Raises:
        ConfigError: a named module does not exist, is no linear layer or belongs to a frozen part, or the tables do not fit the model.
    """
    if spec.rows is not None:
        _check_tables(spec.rows, is_tied=is_tied(model))
    config = _peft_config(model, spec)
    with quiet_peft(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)  # pyright: ignore[reportArgumentType]
    assert isinstance(adapted, PeftModel)
    config.base_model_name_or_path = str(base.resolve())
    return adapted


def is_tied(model: PreTrainedModel) -> bool:
    """Whether embedding and head are one matrix."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def find_targets(model: nn.Module, spec: LoraSpec) -> tuple[str, ...]:
    """Full names of the modules that get a LoRA, in the order of the model.

    Raises:
        ConfigError: see `add_adapter`.
    """
    layers = {name: part_of(name) for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Embedding))}
    if spec.target_modules == "all-linear":
        found = [name for name in layers if isinstance(model.get_submodule(name), nn.Linear) and name != HEAD and layers[name] not in spec.frozen_parts]
        if not found:
            raise ConfigError("every part of the model is frozen", where="tuner", fix="leave out one of freeze_llm, freeze_vit, freeze_aligner")
        return tuple(found)
    chosen = {name: [layer for layer in layers if _ends_with(layer, name)] for name in spec.target_modules}
    for name, matches in chosen.items():
        _check_target(name, matches, model=model, layers=layers, frozen=spec.frozen_parts)
    wanted = {layer for matches in chosen.values() for layer in matches}
    return tuple(layer for layer, part in layers.items() if layer in wanted and part not in spec.frozen_parts)


def _check_tables(rows: RowsSpec, *, is_tied: bool) -> None:
    where = "custom.coord_offset.tie_head"
    if rows.tie_head and not is_tied:
        raise ConfigError("true needs one matrix for embedding and head, and this model has two", where=where, fix="set it to false: two tables of rows")
    if is_tied and not rows.tie_head:
        raise ConfigError("false needs a head of its own, and this model uses its embedding as head", where=where, fix="set it to true: one table of rows")


def _peft_config(model: PreTrainedModel, spec: AdapterSpec) -> PeftConfig:
    tables = [] if spec.rows is None else [EMBEDDING] if spec.rows.tie_head else [EMBEDDING, HEAD]
    if spec.lora is None:
        assert spec.rows is not None, "an adapter has LoRA, rows, or both"
        return TrainableTokensConfig(target_modules=tables, token_indices=list(spec.rows.ids))
    targets = find_targets(model, spec.lora)
    if spec.rows is not None:
        _refuse_both([name for name in targets if name.rpartition(".")[2] in (EMBEDDING, HEAD)])
    return LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=spec.lora.dropout,
        use_dora=spec.lora.use_dora,
        target_modules=list(targets),
        trainable_token_indices=None if spec.rows is None else {table: list(spec.rows.ids) for table in tables},
    )


def _refuse_both(names: Sequence[str]) -> None:
    if names:
        raise ConfigError(
            f"{names[0]} is named, and its coordinate rows are trained by custom.coord_offset", where="tuner.target_modules", fix="leave out one of the two"
        )


def _check_target(name: str, matches: Sequence[str], *, model: nn.Module, layers: dict[str, str], frozen: Collection[str]) -> None:
    where = "tuner.target_modules"
    if not matches:
        others = [module for module, _ in model.named_modules() if _ends_with(module, name)]
        what = f"{others[0]} is no linear layer" if others else f"the model has no module {name!r}"
        known = sorted({layer.rpartition(".")[2] for layer in layers if not layer.rpartition(".")[2].isdigit()})
        raise ConfigError(what, where=where, fix=f"use some of {', '.join(known)}, or all-linear")
    parts = {layers[match] for match in matches}
    if parts <= set(frozen):
        part = min(parts)
        raise ConfigError(f"{name!r} belongs to {part}, which tuner.freeze_{part} freezes", where=where, fix="leave out one of the two")


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without warnings about what is handled here: tied matrices (untied at export where needed) and names that transformers renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        yield
