"""Opens what generates: transformers in this process, or a vLLM server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.text_tokenizer import TextTokenizer
from coordexp.config.infer import InferSection
from coordexp.generation.hf import HfBackend
from coordexp.generation.protocol import GenerationBackend
from coordexp.pipeline.checkpoint import open_checkpoint
from coordexp.types.progress import Progress


@dataclass(frozen=True, slots=True)
class Opened:
    """A backend with what speaks to it."""

    backend: GenerationBackend
    encoder: PromptEncoder
    tokenizer: TextTokenizer


@contextmanager
def open_backend(section: InferSection, *, device: str, progress: Progress) -> Iterator[Opened]:
    """The backend of the configuration, closed with the block.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        BackendError: the device or the server is not there.
    """
    model = open_checkpoint(
        Path(section.model_checkpoint),
        dtype=section.backend.torch_dtype,
        attn_implementation=section.backend.attn_impl,
        device=device,
        progress=progress,
    )
    backend = HfBackend(model, batch_size=section.generation.batch_size)
    try:
        yield Opened(backend, PromptEncoder(model.processor), backend.text_tokenizer)
    finally:
        backend.close()
