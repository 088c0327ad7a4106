"""Merges an adapter into its base: a plain checkpoint with equal logits that opens without this package and without PEFT."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from coordexp.models.adapter_files import AdapterInfo, fingerprint_weights, load_adapter, read_adapter
from coordexp.models.adapters import is_tied, quiet_peft
from coordexp.models.export import save_checkpoint
from coordexp.models.load import LoadedModel, check_checkpoint, load_model
from coordexp.types.errors import CheckpointError


def merge_adapter(folder: Path, dst: Path, *, base: Path | None = None, dtype: str | None = None) -> LoadedModel:
    """Write the merged model to `dst`, which is replaced as a whole.

    A head that shares the embedding's matrix gets its own when a LoRA lies on one of them: then the merged checkpoint is an untied one.

    Args:
        folder: of the adapter: a checkpoint or `final-adapter` of a run.
        dst: folder of the merged checkpoint.
        base: where the model lies that the adapter was trained on, when it has moved.
        dtype: of the merged weights; by default as in the training.

    Raises:
        CheckpointError: adapter or base cannot be used, or do not belong together.
        OutputError: `dst` cannot be written.
    """
    info = read_adapter(folder)
    source = find_base(info, base)
    if dst.resolve() in (source.resolve(), folder.resolve()):
        raise CheckpointError("the merged checkpoint would replace what it is made from", where=str(dst), fix="choose another folder")
    loaded = load_model(source, dtype=dtype or info.base.dtype or "auto")
    merged = dataclasses.replace(loaded, model=merge_into(loaded, info))
    save_checkpoint(merged, dst)
    return merged


def find_base(info: AdapterInfo, base: Path | None = None) -> Path:
    """The folder of the model that the adapter was trained on.

    Raises:
        CheckpointError: there is none, or it holds other weights.
    """
    folder = base or Path(info.base.path)
    if not folder.is_dir():
        raise CheckpointError(f"the model that the adapter was trained on is not at {folder}", where=str(info.folder), fix="name its folder with --base")
    check_checkpoint(folder)
    if info.base.fingerprint not in (None, fingerprint_weights(folder)):
        what = f"the weights in {folder} are not those that the adapter was trained on"
        raise CheckpointError(what, where=str(info.folder), fix="name the right folder with --base")
    return folder


def merge_into(loaded: LoadedModel, info: AdapterInfo) -> Qwen3VLForConditionalGeneration:
    """The model of `loaded` with the adapter merged into its weights.

    Raises:
        CheckpointError: the adapter does not fit, or holds numbers that are not finite.
    """
    was_tied = is_tied(loaded.model)
    adapted = load_adapter(loaded.model, info)
    if was_tied and _has_lora_on_tied(adapted):
        untie_head(loaded.model)
    merge: Any = adapted.merge_and_unload
    try:
        with quiet_peft(), torch.no_grad():
            # safe: looks for values that are not finite
            merged = merge(safe_merge=True)
    except ValueError as error:
        raise CheckpointError(f"the adapter cannot be merged ({error})", where=str(info.folder), fix="use an older checkpoint of the run") from error
    return merged.eval()


def _has_lora_on_tied(adapted: PeftModel) -> bool:
    base: Any = adapted.get_base_model()
    return any(hasattr(module, "lora_A") for module in (base.get_input_embeddings(), base.get_output_embeddings()))


def untie_head(model: Qwen3VLForConditionalGeneration) -> None:
    """Give the head a matrix of its own, equal to the embedding's; works below an adapter too."""
    head: Any = model.get_output_embeddings()
    inner: Any = head
    # PEFT keeps the layer that it wraps there
    while hasattr(inner, "base_layer"):
        inner = inner.base_layer
    inner.weight = nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
