"""Prompts with odd pictures, on which an engine shows whether it sees what the training sees."""

from __future__ import annotations

import tempfile
from pathlib import Path

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.data.images import load_image
from coordexp.data.odd_pictures import write_odd_pictures
from coordexp.models.load import LoadedModel
from coordexp.types.sequences import PromptInputs


def odd_prompts(model: LoadedModel) -> list[PromptInputs]:
    """One for each picture, encoded as in the training."""
    encoder, prompt = PromptEncoder(model.processor), build_prompt(PromptSpec())
    with tempfile.TemporaryDirectory() as folder:
        return [encoder.encode(prompt, load_image(path)) for path in write_odd_pictures(Path(folder))]
