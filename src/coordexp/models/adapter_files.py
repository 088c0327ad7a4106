"""Adapter folders: PEFT's two files, and `adapter_base.json`, which says on which weights and in which number format the adapter was trained.

An adapter on other weights of the same shape would be silently wrong, so the base carries a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from coordexp.models.adapters import quiet_peft
from coordexp.types.errors import CheckpointError, first_line
from coordexp.types.files import write_text

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
BASE_NAME: Final = "adapter_base.json"
_KINDS: Final = ("LORA", "TRAINABLE_TOKENS")
_BLOCK_BYTES: Final = 4096
_NUM_BLOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """Example: `AdapterBase(path="/models/qwen", fingerprint="9f2c…", dtype="bfloat16")`"""

    path: str
    fingerprint: str | None = None
    """None for an adapter that was not trained here."""
    dtype: str | None = None
    """Of the frozen weights in training; None: that of the base's file."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter folder says of itself."""

    folder: Path
    base: AdapterBase
    config: dict[str, Any]
    """adapter_config.json."""


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG_NAME).is_file()


def read_adapter(folder: Path) -> AdapterInfo:
    """The description of an adapter folder; its weights are not read.

    Raises:
        CheckpointError: it is none, is damaged, or of a kind that is not used here.
    """
    if not folder.is_dir():
        raise CheckpointError("no such adapter folder", where=str(folder), fix=f"give the path of a folder with {CONFIG_NAME}")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise CheckpointError(f"no {name}", where=str(folder), fix="give a checkpoint-<step> or final-adapter of a run that trained an adapter")
    config = _read_json(folder / CONFIG_NAME)
    kind = config.get("peft_type")
    if kind not in _KINDS:
        raise CheckpointError(f"the adapter is of the kind {kind!r}", where=str(folder), fix="LoRA, DoRA and trained token rows can be used")
    if (folder / BASE_NAME).is_file():
        saved = _read_json(folder / BASE_NAME)
        base = AdapterBase(path=str(saved.get("path")), fingerprint=saved.get("fingerprint"), dtype=saved.get("dtype"))
    else:
        base = AdapterBase(path=str(config.get("base_model_name_or_path")))
    return AdapterInfo(folder, base, config)


def save_adapter(adapted: PeftModel, folder: Path, *, base: AdapterBase, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapter into `folder`, which exists; `state`: all weights by name, when the model's own are split over processes."""
    with quiet_peft():
        # "auto" would look the base model up on the hub
        adapted.save_pretrained(str(folder), save_embedding_layers=False, **({} if state is None else {"state_dict": dict(state)}))  # pyright: ignore[reportArgumentType]
    (folder / "README.md").unlink(missing_ok=True)
    write_text(folder / BASE_NAME, json.dumps(asdict(base), indent=2) + "\n")


def load_adapter(model: PreTrainedModel, info: AdapterInfo) -> PeftModel:
    """Put a saved adapter into the model, frozen.

    Raises:
        CheckpointError: it does not fit the model, or its weights are damaged or incomplete.
    """
    try:
        with quiet_peft():
            adapted = PeftModel.from_pretrained(model, str(info.folder), is_trainable=False)
    except (ValueError, RuntimeError, KeyError, IndexError, OSError, SafetensorError) as error:
        reason = first_line(error)
        raise CheckpointError(f"the adapter does not fit the model ({reason})", where=str(info.folder), fix="name the model that it was trained on") from error
    check_weights(adapted, info.folder)
    return adapted


def check_weights(adapted: PeftModel, folder: Path) -> None:
    """Raise `CheckpointError` unless the file holds exactly the tensors that this adapter has: a missing one would silently keep its start value."""
    with quiet_peft():
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)  # pyright: ignore[reportArgumentType]
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    found = list_tensors(folder / WEIGHTS_NAME)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        what = f"{len(wrong)} tensors differ from the adapter of this model ({name}: {found.get(name, 'missing')}, expected {expected.get(name, 'none')})"
        raise CheckpointError(what, where=str(folder / WEIGHTS_NAME), fix="use the settings and the model that the adapter was trained with")


def check_settings(adapted: PeftModel, folder: Path) -> None:
    """Raise `CheckpointError` when the saved adapter scales or computes differently, which the shapes of its tensors do not show."""
    ours, saved = next(iter(adapted.peft_config.values())).to_dict(), _read_json(folder / CONFIG_NAME)
    for name in ("peft_type", "r", "lora_alpha", "use_dora", "use_rslora"):
        mine, its = (str(getattr(settings.get(name), "value", settings.get(name))) for settings in (ours, saved))
        if mine != its:
            raise CheckpointError(f"the adapter was trained with {name} {its}, not {mine}", where=str(folder), fix="use the settings of its run")


def check_base(folder: Path, base: AdapterBase) -> None:
    """Raise `CheckpointError` when the saved adapter was trained on other weights than those of `base`: it would silently be wrong on them."""
    trained_on = read_adapter(folder).base
    if trained_on.fingerprint not in (None, base.fingerprint):
        what = f"the weights in {base.path} are not those that the adapter was trained on"
        raise CheckpointError(what, where=str(folder), fix=f"set model.model to that checkpoint, which was at {trained_on.path}")


def list_tensors(file: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape, from the header of a safetensors file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the file cannot be read ({error})", where=str(file), fix="copy it again") from error


def fingerprint_weights(folder: Path) -> str:
    """Of the weight files of a checkpoint, from their sizes and 64 blocks of each: the same bytes give the same text, another training another one."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{size}\n".encode())
        with file.open("rb") as stream:
            for number in range(_NUM_BLOCKS):
                stream.seek(max(0, size - _BLOCK_BYTES) * number // (_NUM_BLOCKS - 1))
                digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the file cannot be read ({error})", where=str(file), fix="copy it again") from error
    if not isinstance(document, dict):
        raise CheckpointError("the file holds no object", where=str(file), fix="copy it again")
    return document
