"""What a checkpoint or adapter folder holds, from configuration, tokenizer and the headers of its weight files; no weight is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, Qwen3VLForConditionalGeneration

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.models.adapter_files import WEIGHTS_NAME, AdapterInfo, list_tensors, read_adapter
from coordexp.models.load import check_checkpoint, read_config, weight_files
from coordexp.models.parts import PARTS, part_of
from coordexp.models.processor import READ_ERRORS, load_tokenizer
from coordexp.types.errors import CheckpointError, first_line


@dataclass(frozen=True, slots=True)
class PartContent:
    """Tensors of one part in the files."""

    name: str
    num_parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckpointContent:
    """A whole model."""

    folder: Path
    parts: tuple[PartContent, ...]
    num_files: int
    num_bytes: int
    is_tied: bool
    num_tokens: int
    """Of the tokenizer."""
    embedding_rows: int
    coord_ids: tuple[int, ...]
    """Of the coordinate tokens that the tokenizer has, by bin."""

    @property
    def num_parameters(self) -> int:
        return sum(part.num_parameters for part in self.parts)


@dataclass(frozen=True, slots=True)
class AdapterContent:
    """An adapter alone."""

    info: AdapterInfo
    num_lora: dict[str, int]
    """Parameters by part of the model."""
    modules: dict[str, int]
    """Last part of a module's name → how many of them have a LoRA."""
    rows: dict[str, int]
    """Table (`embed_tokens`, `lm_head`) → trained rows."""


def inspect_checkpoint(folder: Path) -> CheckpointContent:
    """What a checkpoint folder holds.

    Raises:
        CheckpointError: it is no Qwen3-VL checkpoint, or a file cannot be read.
    """
    check_checkpoint(folder)
    files = weight_files(folder)
    counts: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        for name, (shape, dtype) in _headers(file).items():
            shapes[name] = shape
            counts[part_of(name)][dtype] += int(torch.Size(shape).numel())
    vocab = load_tokenizer(folder).get_vocab()
    embedding = next((shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), None)
    if embedding is None:
        raise CheckpointError("no tensor embed_tokens.weight", where=str(folder), fix="copy all *.safetensors files of the checkpoint")
    return CheckpointContent(
        folder=folder,
        parts=tuple(PartContent(part, sum(found.values()), tuple(sorted(found))) for part, found in counts.items()),
        num_files=len(files),
        num_bytes=sum(file.stat().st_size for file in files),
        is_tied=bool(read_config(folder).get("tie_word_embeddings", "lm_head.weight" not in shapes)),
        num_tokens=len(vocab),
        embedding_rows=embedding[0],
        coord_ids=tuple(vocab[token] for token in coord_tokens() if token in vocab),
    )


def inspect_adapter(folder: Path) -> AdapterContent:
    """What an adapter folder holds.

    Raises:
        CheckpointError: it is none, or a file cannot be read.
    """
    info = read_adapter(folder)
    num_lora: Counter[str] = Counter()
    modules: dict[str, set[str]] = {}
    rows: dict[str, int] = {}
    for name, shape in list_tensors(folder / WEIGHTS_NAME).items():
        module, _, kind = name.removeprefix("base_model.model.").partition(".lora_")
        if kind:
            num_lora[part_of(module)] += int(torch.Size(shape).numel())
            modules.setdefault(module.rpartition(".")[2], set()).add(module)
        elif "trainable_tokens" in name:
            rows["lm_head" if "lm_head" in name else "embed_tokens"] = shape[0]
    return AdapterContent(info, dict(num_lora), {name: len(found) for name, found in sorted(modules.items())}, rows)


def build_empty(folder: Path) -> Qwen3VLForConditionalGeneration:
    """The model of a checkpoint without memory for its weights, to count parameters.

    Raises:
        CheckpointError: the folder is no Qwen3-VL checkpoint.
    """
    check_checkpoint(folder)
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except READ_ERRORS as error:
        raise CheckpointError(f"config.json cannot be read ({first_line(error)})", where=str(folder), fix="copy the file again") from error
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    model.tie_weights()
    return model


def _headers(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape, number format)."""
    list_tensors(file)  # says what is wrong with a damaged file
    with safe_open(file, framework="pt") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
