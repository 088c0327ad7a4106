"""Opens a Qwen3-VL checkpoint folder, checked before its weights are read: what is missing is said in one sentence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from coordexp.codec.coord_tokens import CoordVocabulary
from coordexp.models.processor import READ_ERRORS, load_processor
from coordexp.models.quantize import Quantization, quantization_config
from coordexp.models.quiet import no_library_bars
from coordexp.types.errors import CheckpointError, first_line

DTYPES: Final[dict[str, torch.dtype]] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MODEL_TYPE: Final = "qwen3_vl"
_ATTENTION: Final = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint ready for training or generation; in eval mode until somebody calls `model.train()`."""

    path: Path
    model: Qwen3VLForConditionalGeneration
    processor: Qwen3VLProcessor
    tokenizer: PreTrainedTokenizerBase
    coord_vocab: CoordVocabulary
    attn_requested: str
    attn_used: str
    """Differs from the request only where the library replaced it; manifests record both."""


def placeholder_ids(loaded: LoadedModel) -> tuple[int, ...]:
    """Tokens that stand for pieces of a picture or a film: only an encoder writes them."""
    config: Any = loaded.model.config
    return int(config.image_token_id), int(config.video_token_id)


def load_model(
    path: Path | str,
    *,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    device: str = "cpu",
    quantization: Quantization | None = None,
    needs_coord_tokens: bool = True,
) -> LoadedModel:
    """Open a checkpoint folder.

    Args:
        path: a folder with config.json, *.safetensors, tokenizer and image settings.
        dtype: of the weights in memory, whatever the file holds; `auto`: as config.json says, float32 when it does not.
        attn_implementation: `sdpa`, `eager` or a flash attention.
        device: where the weights go.
        needs_coord_tokens: False: a stock checkpoint may be opened, with an empty `coord_vocab`.
        quantization: of the linear layers of the language model, to train an adapter on them; needs bitsandbytes.

    Raises:
        CheckpointError: no such folder, not a Qwen3-VL, no coordinate tokens, weights missing, damaged or of another shape, or an unknown setting.
        BackendError: quantization without bitsandbytes.
    """
    folder = check_checkpoint(path)
    dtype = _stored_dtype(folder) if dtype == "auto" else dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"unknown dtype {dtype!r}", where=str(folder), fix=f"use one of {', '.join(DTYPES)}")
    if attn_implementation not in _ATTENTION:
        raise CheckpointError(f"unknown attention implementation {attn_implementation!r}", where=str(folder), fix=f"use one of {', '.join(_ATTENTION)}")
    processor = load_processor(folder)
    tokenizer: PreTrainedTokenizerBase = processor.tokenizer  # type: ignore[attr-defined]
    coord_vocab = CoordVocabulary.from_tokenizer(tokenizer, where=str(folder)) if needs_coord_tokens else CoordVocabulary(())
    quantized = {} if quantization is None else {"quantization_config": quantization_config(quantization, dtype=DTYPES[dtype])}
    model = _load_weights(folder, dtype=DTYPES[dtype], attn_implementation=attn_implementation, **quantized)
    rows = model.get_input_embeddings().weight.shape[0]  # pyright: ignore[reportIndexIssue]
    if max(coord_vocab.ids, default=0) >= rows:
        raise CheckpointError(
            f"the tokenizer has the coordinate tokens but the model has only {rows} embedding rows", where=str(folder), fix="resize the embeddings"
        )
    if quantization is None or device != "cpu":
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    used = str(model.config.text_config._attn_implementation)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    return LoadedModel(folder, model.eval(), processor, tokenizer, coord_vocab, attn_implementation, used)


def check_checkpoint(path: Path | str) -> Path:
    """The folder, when it looks like a Qwen3-VL checkpoint with safetensors; nothing large is read.

    Raises:
        CheckpointError: it does not.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError("no such checkpoint folder", where=str(folder), fix="give the path of a folder with config.json and model.safetensors")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        what = "the folder holds an adapter without the model that it belongs to"
        raise CheckpointError(what, where=str(folder), fix=f"merge it: coordexp model merge --adapter {folder} --dst <folder>")
    kind = read_config(folder).get("model_type")
    if kind != _MODEL_TYPE:
        raise CheckpointError(f"the model type is {kind!r}, not {_MODEL_TYPE!r}", where=str(folder), fix="use a Qwen3-VL checkpoint")
    index = folder / "model.safetensors.index.json"
    if not (folder / "model.safetensors").is_file() and not index.is_file():
        raise CheckpointError("no model.safetensors", where=str(folder), fix="use a checkpoint saved as safetensors; pickled weights are not read")
    if index.is_file() and not (folder / "model.safetensors").is_file():
        _check_shards(folder, index)
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checked checkpoint folder."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint.

    Raises:
        CheckpointError: it is missing or not JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError("no config.json", where=str(folder), fix="give the path of a folder with config.json and model.safetensors") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"config.json is not JSON ({error})", where=str(folder), fix="copy the file again") from error
    return config if isinstance(config, dict) else {}


def _stored_dtype(folder: Path) -> str:
    config = read_config(folder)
    sections = [config, *(part for part in (config.get("text_config"),) if isinstance(part, dict))]
    found = [section[name] for section in sections for name in ("dtype", "torch_dtype") if section.get(name)]
    return str(found[0]) if found else "float32"


def _check_shards(folder: Path, index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index.name} cannot be read ({error})", where=str(folder), fix="copy the file again") from error
    if not shards:
        raise CheckpointError(f"{index.name} names no weight file", where=str(folder), fix="copy the file again")
    outside = sorted(str(name) for name in shards if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"))
    if outside:
        what = f"{index.name} names {outside[0]!r}, which is no safetensors file of the folder"
        raise CheckpointError(what, where=str(folder), fix="use a checkpoint saved as safetensors; pickled weights are not read")
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise CheckpointError(f"{len(missing)} weight files are missing ({missing[0]})", where=str(folder), fix="copy all *.safetensors files")


def _load_weights(folder: Path, *, dtype: torch.dtype, attn_implementation: str, **settings: Any) -> Qwen3VLForConditionalGeneration:
    try:
        with no_library_bars():
            model, info = Qwen3VLForConditionalGeneration.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                folder,
                dtype=dtype,
                attn_implementation=attn_implementation,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
                **settings,
            )
    except READ_ERRORS as error:
        raise CheckpointError(
            f"the weights cannot be loaded ({first_line(error)})", where=str(folder), fix="copy the folder again, or use another dtype or attention"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        # such tensors would silently be random
        raise CheckpointError(f"{len(missing)} tensors are missing ({missing[0]})", where=str(folder), fix="copy all *.safetensors files of the checkpoint")
    return model
