"""Adds the coordinate tokens to a Qwen3-VL folder that has none. Works on the files, one weight file in memory at a time.

New rows of embedding and head are smooth in the bin: `mean + std * f(k)`, with mean and standard deviation (by dimension) of the rows of the digits, and
the Fourier features f of unit variance with which the tiny model starts. So every coordinate begins as a kind of number, and neighbours as neighbours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.models.disk import DiskErrors
from coordexp.models.load import DTYPES, check_checkpoint, read_config, weight_files
from coordexp.models.processor import load_processor
from coordexp.models.tiny import coord_embeddings
from coordexp.models.weights import set_config_dtype
from coordexp.types.errors import CheckpointError
from coordexp.types.files import atomic_folder

_EMBEDDING: Final = "embed_tokens.weight"
_HEAD: Final = "lm_head.weight"
_INDEX: Final = "model.safetensors.index.json"
_REWRITTEN: Final = frozenset(
    {_INDEX, "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"}
)
_STATES: Final = frozenset({".safetensors", ".bin", ".pt", ".pth"})


@dataclass(frozen=True, slots=True)
class ExpandedVocab:
    """Example: `ExpandedVocab(first_id=151669, last_id=152668, rows_before=151936, rows_after=152669, matrices=("…embed_tokens.weight",))`"""

    first_id: int
    last_id: int
    rows_before: int
    rows_after: int
    matrices: tuple[str, ...]
    """Names of the tensors with new rows: the embedding, and the head when it has a matrix of its own."""


def expand_vocab(src: Path, dst: Path, *, dtype: str | None = None, pad_to_multiple_of: int = 1) -> ExpandedVocab:
    """Write a copy of `src` with the 1,000 coordinate tokens to `dst`, which is replaced as a whole.

    Args:
        src: a Qwen3-VL folder without coordinate tokens.
        dst: the new folder.
        dtype: of the weights in the new files; by default each as it is.
        pad_to_multiple_of: the number of rows is rounded up to a multiple of this; some GPU kernels are faster then.

    Raises:
        CheckpointError: `src` cannot be used, or has coordinate tokens.
        OutputError: `dst` cannot be written.
    """
    check_checkpoint(src)
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}", where=str(src), fix=f"use one of {', '.join(DTYPES)}")
    if dst.resolve() == src.resolve():
        raise CheckpointError("the new folder would replace the old one", where=str(dst), fix="choose another folder")
    tokenizer: Any = load_processor(src).tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    rows_before = _count_rows(src)
    digits = _digit_ids(tokenizer, src)
    ids = _add_tokens(tokenizer, src, num_rows=rows_before)
    rows_after = -(-max(rows_before, max(ids) + 1) // pad_to_multiple_of) * pad_to_multiple_of
    rows = _NewRows(ids=ids, digits=digits, num_rows=rows_after)
    with atomic_folder(dst) as folder, DiskErrors(dst.parent):
        _copy_files(src, folder)
        tokenizer.save_pretrained(folder)
        _write_config(src, folder, num_rows=rows_after, dtype=dtype)
        matrices = tuple(_write_weights(src, folder, rows=rows, dtype=None if dtype is None else DTYPES[dtype]))
        for file in folder.iterdir():
            file.chmod(0o644)
    return ExpandedVocab(min(ids), max(ids), rows_before, rows_after, matrices)


@dataclass(frozen=True, slots=True)
class _NewRows:
    ids: tuple[int, ...]
    digits: tuple[int, ...]
    num_rows: int

    def extend(self, matrix: torch.Tensor) -> torch.Tensor:
        """[rows, size] → [num_rows, size] in the same number format: old rows as they are, coordinate rows, the mean row where nothing else is."""
        wider = matrix.new_empty(self.num_rows, matrix.shape[1])
        wider[: len(matrix)] = matrix
        wider[len(matrix) :] = matrix.mean(dim=0, dtype=torch.float32).to(matrix.dtype)
        numbers = matrix[list(self.digits)].float()
        features = coord_embeddings(len(self.ids), matrix.shape[1])
        wider[list(self.ids)] = (numbers.mean(dim=0) + numbers.std(dim=0) * features).to(matrix.dtype)
        return wider


def _count_rows(src: Path) -> int:
    """Rows of the embedding."""
    for file in weight_files(src):
        with _open(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(_EMBEDDING):
                    return int(tensors.get_slice(name).get_shape()[0])
    raise CheckpointError(f"no tensor {_EMBEDDING}", where=str(src), fix="copy all *.safetensors files of the checkpoint")


def _digit_ids(tokenizer: Any, src: Path) -> tuple[int, ...]:
    text = TextTokenizer.of(tokenizer)
    found = [text.encode(str(digit)).ids for digit in range(10)]
    if any(len(ids) != 1 for ids in found):
        raise CheckpointError("a digit is not one token", where=str(src), fix="use a Qwen3-VL checkpoint")
    return tuple(ids[0] for ids in found)


def _add_tokens(tokenizer: Any, src: Path, *, num_rows: int) -> tuple[int, ...]:
    """Ids of the coordinate tokens by bin, as the tokenizer gave them."""
    vocab = tokenizer.get_vocab()
    present = sum(token in vocab for token in coord_tokens())
    if present:
        complete = present == len(coord_tokens())
        what = "has the coordinate tokens already" if complete else f"has {present} of the {len(coord_tokens())} coordinate tokens"
        fix = "train on it as it is" if complete else "start from the published checkpoint, which has none"
        raise CheckpointError(f"the tokenizer {what}", where=str(src), fix=fix)
    if max(vocab.values()) >= num_rows:
        what = f"the tokenizer goes up to id {max(vocab.values())} and the embedding has {num_rows} rows"
        raise CheckpointError(what, where=str(src), fix="copy tokenizer and weights from the same checkpoint")
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in coord_tokens()], special_tokens=True)
    ids = tuple(int(number) for number in tokenizer.convert_tokens_to_ids(list(coord_tokens())))
    if len(set(ids)) != len(ids) or set(ids) & set(vocab.values()):
        raise CheckpointError("the tokenizer gives coordinate tokens ids that are taken", where=str(src), fix="use an unchanged Qwen3-VL tokenizer")
    return ids


def _copy_files(src: Path, folder: Path) -> None:
    """Everything that stays as it is: image settings, generation settings, licence, …"""
    for file in sorted(src.iterdir()):
        if file.is_file() and file.name not in _REWRITTEN and file.suffix not in _STATES and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)


def _write_config(src: Path, folder: Path, *, num_rows: int, dtype: str | None) -> None:
    config = read_config(src)
    for section in (config, config.get("text_config")):
        if isinstance(section, dict) and (section is not config or "vocab_size" in section):
            section["vocab_size"] = num_rows
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if dtype is not None:
        set_config_dtype(folder, DTYPES[dtype])


def _write_weights(src: Path, folder: Path, *, rows: _NewRows, dtype: torch.dtype | None) -> Iterator[str]:
    """Write the weight files and their index; yields the names of the tensors with new rows."""
    sizes: dict[str, int] = {}
    for file in weight_files(src):
        with _open(file) as tensors:
            names = list(tensors.keys())
            matrices = [name for name in names if name.endswith((_EMBEDDING, _HEAD))]
            state: dict[str, torch.Tensor] = {} if not matrices and dtype is None else {name: tensors.get_tensor(name) for name in names}
        if state:
            for name in matrices:
                state[name] = rows.extend(state[name])
            cast = {name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor for name, tensor in state.items()}
            save_file(cast, folder / file.name, metadata={"format": "pt"})
        else:
            shutil.copyfile(file, folder / file.name)
        sizes[file.name] = _tensor_bytes(folder / file.name)
        yield from matrices
    if (src / _INDEX).is_file():
        index = json.loads((src / _INDEX).read_text(encoding="utf-8"))
        index["metadata"] = {**index.get("metadata", {}), "total_size": sum(sizes.values())}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tensor_bytes(file: Path) -> int:
    """Bytes of the tensors, without the header, whose length the first 8 bytes hold."""
    with file.open("rb") as stream:
        return file.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the file cannot be read ({error})", where=str(file), fix="copy it again") from error
