"""`coordexp model merge`, `expand-vocab` and `inspect`: checkpoints made from checkpoints, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.adapter_files import is_adapter
from coordexp.models.expand_vocab import expand_vocab
from coordexp.models.inspect import AdapterContent, CheckpointContent, build_empty, inspect_adapter, inspect_checkpoint
from coordexp.models.merge import find_base, merge_adapter
from coordexp.models.parts import PartSize
from coordexp.recipes.stage1_tuner import preview_parts
from coordexp.types.errors import CheckpointError, OutputError
from coordexp.types.files import ensure_output_folder
from coordexp.types.progress import NoProgress, Progress

_NUM_COORD_TOKENS = len(coord_tokens())


def run_merge(adapter: Path, dst: Path, *, base: Path | None = None, dtype: str | None = None, progress: Progress | None = None) -> None:
    """Write the model with the adapter merged into it.

    Raises:
        UserError: adapter or base cannot be used, or `dst` cannot be written.
    """
    disable_progress_bar()
    progress = progress or NoProgress()
    _check_destination(dst)
    merged = merge_adapter(adapter, dst, base=base, dtype=dtype)
    progress.say(f"{adapter} on {merged.path}, merged as {str(merged.model.dtype).removeprefix('torch.')}: {dst}")


def run_expand_vocab(src: Path, dst: Path, *, dtype: str | None = None, pad_to_multiple_of: int = 1, progress: Progress | None = None) -> None:
    """Write a copy of a Qwen3-VL folder with the coordinate tokens.

    Raises:
        UserError: `src` cannot be used or has the tokens, or `dst` cannot be written.
    """
    disable_progress_bar()
    progress = progress or NoProgress()
    _check_destination(dst)
    done = expand_vocab(src, dst, dtype=dtype, pad_to_multiple_of=pad_to_multiple_of)
    changed = "embedding, which is also the head" if len(done.matrices) == 1 else "embedding and head"
    progress.say(f"coordinate tokens are {done.first_id} to {done.last_id}; {done.rows_before} rows of the {changed}, now {done.rows_after}: {dst}")


def run_inspect(folder: Path, *, loaded: Loaded[TrainConfig] | None = None) -> Iterator[str]:
    """Lines that say what a checkpoint or adapter folder holds, and what a training file would train on it.

    Raises:
        UserError: the folder cannot be read, or the settings do not fit it.
    """
    disable_progress_bar()
    if is_adapter(folder):
        content = inspect_adapter(folder)
        yield from _describe_adapter(content)
        folder = find_base(content.info) if loaded is not None else folder
    else:
        yield from _describe_checkpoint(inspect_checkpoint(folder))
    if loaded is not None:
        model = inspect_checkpoint(folder)
        if len(model.coord_ids) < _NUM_COORD_TOKENS:
            fix = f"add them: coordexp model expand-vocab --src {folder} --dst <folder>"
            raise CheckpointError("no training without coordinate tokens", where=str(folder), fix=fix)
        yield from _describe_training(preview_parts(loaded.config, build_empty(folder), coord_ids=model.coord_ids, base=folder), loaded.path)


def _check_destination(dst: Path) -> None:
    """Raise `OutputError` when the folder that would be replaced is no checkpoint."""
    ensure_output_folder(dst.parent)
    if dst.exists() and not (dst.is_dir() and ((dst / "config.json").is_file() or not any(dst.iterdir()))):
        raise OutputError("would be replaced, and is no checkpoint", where=str(dst), fix="choose a new folder")


def _describe_checkpoint(content: CheckpointContent) -> Iterator[str]:
    files = "1 file" if content.num_files == 1 else f"{content.num_files} files"
    yield f"checkpoint {content.folder}: {content.num_parameters:,} parameters, {content.num_bytes / 1e9:.3f} GB in {files}"
    for part in content.parts:
        yield f"  {part.name:<8} {part.num_parameters:>15,}  {', '.join(part.dtypes)}"
    yield f"head: {'the embedding' if content.is_tied else 'a matrix of its own'}"
    yield f"vocabulary: {content.num_tokens:,} tokens, {content.embedding_rows:,} embedding rows"
    found = content.coord_ids
    span = f", ids {min(found)} to {max(found)}" if found else ""
    yield f"coordinate tokens: {len(found)} of {_NUM_COORD_TOKENS}{span}"


def _describe_adapter(content: AdapterContent) -> Iterator[str]:
    info, config = content.info, content.info.config
    yield f"adapter {info.folder}: {sum(content.num_lora.values()):,} parameters of LoRA, {sum(content.rows.values()):,} rows of tokens"
    if content.num_lora:
        kind = "DoRA" if config.get("use_dora") else "LoRA"
        yield f"{kind}: rank {config.get('r')}, alpha {config.get('lora_alpha')}, dropout {config.get('lora_dropout')}"
        for part, number in content.num_lora.items():
            yield f"  {part:<8} {number:>15,}"
        yield "modules: " + ", ".join(f"{name} ({number})" for name, number in content.modules.items())
    for table, number in content.rows.items():
        yield f"rows: {number} of {table}"
    yield f"trained on: {info.base.path}" + (f" in {info.base.dtype}" if info.base.dtype else "")


def _describe_training(sizes: tuple[PartSize, ...], source: Path | None) -> Iterator[str]:
    total, trainable = sum(size.total for size in sizes), sum(size.trainable for size in sizes)
    yield f"training with {source or 'these settings'}: {trainable:,} of {total:,} parameters ({100 * trainable / total:.2f} %)"
    for size in sizes:
        yield f"  {size.name:<8} {size.trainable:>15,} of {size.total:,}"
