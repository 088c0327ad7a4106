"""Qwen3-VL's processor without torchvision: images by Pillow, no video. Checked, because a processor without its image part answers nonsense silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from coordexp.types.errors import CheckpointError, first_line

READ_ERRORS: Final = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError, StrictDataclassError)
"""What the library raises over a file of a checkpoint that is damaged, or that holds something else than it should."""


class ImageOnlyProcessor(Qwen3VLProcessor):
    """Qwen3-VL's processor whose video part is left out: the stock one cannot be built without torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str | None = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **kwargs)

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """The video processor is absent on purpose."""
        if argument_name == "video_processor" and argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)


def load_processor(path: Path | str) -> Qwen3VLProcessor:
    """The processor of a checkpoint folder.

    Raises:
        CheckpointError: no image settings, no tokenizer, no chat template, or no image placeholder in the vocabulary.
    """
    folder = Path(path)
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise CheckpointError("no preprocessor_config.json", where=str(folder), fix="copy the file from the model that this checkpoint was made from")
    tokenizer = load_tokenizer(folder)
    try:
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except READ_ERRORS as error:
        raise CheckpointError(f"the processor cannot be read ({first_line(error)})", where=str(folder), fix="use an unchanged Qwen3-VL folder") from error
    template = tokenizer.chat_template or _template_file(folder)
    if not isinstance(template, str):
        raise CheckpointError("no chat template", where=str(folder), fix="copy chat_template.jinja from the model that this checkpoint was made from")
    processor = ImageOnlyProcessor(image_processor, tokenizer, chat_template=template)
    if processor.image_token not in tokenizer.get_vocab():
        raise CheckpointError(f"the tokenizer has no {processor.image_token}", where=str(folder), fix="use a Qwen3-VL checkpoint")
    return processor


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError("no tokenizer.json", where=str(folder), fix="copy the tokenizer files from the model that this checkpoint was made from")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except READ_ERRORS as error:
        raise CheckpointError(f"the tokenizer cannot be read ({first_line(error)})", where=str(folder), fix="use an unchanged Qwen3-VL folder") from error


def _template_file(folder: Path) -> str | None:
    """The chat template beside the tokenizer, in the places where published checkpoints keep it."""
    plain, wrapped = folder / "chat_template.jinja", folder / "chat_template.json"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    if wrapped.is_file():
        return json.loads(wrapped.read_text(encoding="utf-8")).get("chat_template")
    return None
