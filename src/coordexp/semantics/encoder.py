"""Sentence encoders: the mean of the last hidden states over a text's tokens, scaled to length 1.

The one module of this room that may load torch, and only for models and devices that numpy has no code for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from coordexp.semantics.bert import Bert, is_plain_bert, read_bert
from coordexp.semantics.cache import CachedEncoder
from coordexp.semantics.lookup import DEFAULT_ENCODER, EncoderFiles, find_encoder
from coordexp.semantics.protocol import TextEncoder, Vectors
from coordexp.types.errors import BackendError, first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LONGEST = 512


def load_encoder(name: str = DEFAULT_ENCODER, *, device: str = "cpu", batch_size: int = 64, revision: str | None = None) -> TextEncoder:
    """The encoder `name`: a local folder, the installed package of the extra `semantic`, or a hub id in the Hugging Face cache.

    A BERT encoder on the CPU is computed in numpy; other models and devices use transformers. The weights are read at the first `encode`.

    Raises:
        BackendError: it is not on this machine, cannot be used, or what it needs is not installed.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, expected at least 1")
    files = find_encoder(name, revision=revision)
    if device == "cpu" and is_plain_bert(files.settings("config.json")) and (files.folder / "tokenizer.json").is_file():
        _require("tokenizers", "safetensors", extra="semantic")
        return NumpyEncoder(files, batch_size=batch_size)
    _require("torch", "transformers", extra="train", why=f"'{name}' on device '{device}'")
    return TransformersEncoder(files, device=device, batch_size=batch_size)


class LazyEncoder:
    """An encoder that is looked for when its name or the first vector is asked for, once; its embeddings are kept on disk.

    Example: `evaluate(path, encoder=LazyEncoder())` finds and reads the encoder only when some name has to be compared.
    """

    def __init__(self, name: str = DEFAULT_ENCODER, *, device: str = "cpu", batch_size: int = 64, revision: str | None = None) -> None:
        self.asked_for = name
        self.device = device
        self.batch_size = batch_size
        self.revision = revision

    @property
    def name(self) -> str:
        """With the hash of the weights. Raises BackendError like `load_encoder`."""
        return self._encoder.name

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [N, D], rows of length 1. Raises BackendError like `load_encoder`."""
        return self._encoder.encode(texts)

    @cached_property
    def _encoder(self) -> CachedEncoder:
        return CachedEncoder(load_encoder(self.asked_for, device=self.device, batch_size=self.batch_size, revision=self.revision))


class NumpyEncoder:
    """A BERT encoder without torch."""

    def __init__(self, files: EncoderFiles, *, batch_size: int = 64) -> None:
        self.files = files
        self.name = files.identity()
        self._batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [N, D], rows of length 1."""
        if not texts:
            return np.empty((0, int(self.files.settings("config.json")["hidden_size"])), dtype=np.float32)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([_readable(text) for text in texts])]
        vectors = np.empty((len(ids), self._model.words.shape[1]), dtype=np.float32)
        for batch in _equal_lengths(ids, at_most=self._batch_size):
            vectors[batch] = self._model.hidden_states(np.array([ids[i] for i in batch], dtype=np.int64)).mean(1)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        return vectors

    @cached_property
    def _model(self) -> Bert:
        from safetensors import SafetensorError

        try:
            return read_bert(self.files.weights, self.files.settings("config.json"))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BackendError(
                f"does not hold the weights of its config.json ({error})", where=str(self.files.weights), fix="download the encoder again"
            ) from error

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        self.files.settings("tokenizer.json")  # says so when it is cut off
        tokenizer = Tokenizer.from_file(str(self.files.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(_longest(self.files))
        return tokenizer


class TransformersEncoder:
    """Any encoder that transformers opens, on any device of torch. Costs seconds to import."""

    def __init__(self, files: EncoderFiles, *, device: str = "cpu", batch_size: int = 64) -> None:
        self.files = files
        self.name = files.identity()
        self._batch_size = batch_size
        self._device = _checked_device(device)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [N, D], rows of length 1."""
        import torch

        tokenizer, model = self._loaded
        vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            inputs = tokenizer([_readable(texts[i]) for i in batch], padding=True, truncation=True, max_length=_longest(self.files), return_tensors="pt")
            with torch.inference_mode():
                inputs = inputs.to(self._device)
                mask = inputs["attention_mask"][..., None].float()
                means = (model(**inputs).last_hidden_state.float() * mask).sum(1) / mask.sum(1)
                vectors[batch] = torch.nn.functional.normalize(means, dim=-1).cpu().numpy()
        return vectors

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.files.folder, local_files_only=True, trust_remote_code=False)
            model = AutoModel.from_pretrained(self.files.folder, local_files_only=True, trust_remote_code=False, use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            what = f"cannot be opened as a text encoder ({first_line(error)})"
            raise BackendError(what, where=str(self.files.folder), fix="name a folder with a sentence encoder") from error
        return tokenizer, model.eval().to(self._device)


def _equal_lengths(ids: Sequence[Sequence[int]], *, at_most: int) -> Iterator[list[int]]:
    """Batches of positions of equally long texts, short ones first."""
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == at_most or len(ids[i]) != len(ids[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _readable(text: str) -> str:
    """Lone surrogates, which JSON can carry and tokenizers refuse, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _longest(files: EncoderFiles) -> int:
    """Tokens of a text that are read."""
    known = (files.settings("sentence_bert_config.json").get("max_seq_length"), files.settings("config.json").get("max_position_embeddings"))
    return min([_LONGEST, *(length for length in known if isinstance(length, int))])


def _checked_device(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without the device raises AssertionError
        reason = first_line(error)
        raise BackendError(f"the text encoder cannot run on device '{device}': {reason}", fix="choose --semantic-device cpu") from error
    return device


def _require(*packages: str, extra: str, why: str | None = None) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        what = f"the text encoder {why}" if why else "a text encoder"
        raise BackendError(f"{what} needs {' and '.join(missing)}", fix=f"pip install 'coordexp[{extra}]', or choose --label-match exact")
