"""Prompt and image to model inputs, written once so that training, inference and rollouts get the same ids and pixels. numpy only.

The chat template is the checkpoint's own. Its text is tokenized once for each prompt; what differs between images of different sizes is only
how often the image placeholder is repeated.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image

from coordexp.codec.prompts import Prompt
from coordexp.types.errors import CheckpointError, DataError
from coordexp.types.sequences import ImageInputs, IntArray, PromptInputs

_MAX_TEMPLATES = 4096
"""Category lists can make every prompt different; the cache must not grow with the data set."""


class VisionProcessor(Protocol):
    """The part of a Qwen3-VL processor that is used here."""

    image_processor: Any
    tokenizer: Any
    image_token_id: int

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any: ...


class PromptEncoder:
    """Encodes (prompt, image) pairs. Safe to call from several threads: a race can only compute the same cache entry twice.

    Example: `PromptEncoder(processor).encode(build_prompt(spec), load_image(path)).token_ids.shape == (57,)`
    """

    def __init__(self, processor: VisionProcessor) -> None:
        self._processor = processor
        image_processor = processor.image_processor
        self.patch_size = int(image_processor.patch_size)
        self.merge_size = int(image_processor.merge_size)
        self.image_token_id = int(processor.image_token_id)
        self._templates: dict[Prompt, tuple[str, IntArray, int]] = {}

    @property
    def side_multiple(self) -> int:
        """Images whose sides are multiples of this many pixels reach the model as they are."""
        return self.patch_size * self.merge_size

    def encode(self, prompt: Prompt, image: Image.Image) -> PromptInputs:
        """Ids with one placeholder for each merged patch, and the patches of the image.

        Args:
            prompt: the system and user text.
            image: mode RGB, at its final size (see `load_image`).

        Raises:
            DataError: see `encode_image`.
        """
        return self.assemble(prompt, self.encode_image(image))

    def assemble(self, prompt: Prompt, inputs: ImageInputs) -> PromptInputs:
        """`encode` for an image that is already encoded."""
        text, ids, at = self._template(prompt)
        num_tokens = int(np.prod(inputs.grid_thw)) // self.merge_size**2
        placeholders = np.full(num_tokens, self.image_token_id, dtype=np.int32)
        ids = np.concatenate((ids[:at], placeholders, ids[at + 1 :]))
        return PromptInputs(token_ids=ids, images=(inputs,), text=text, system=prompt.system, user=prompt.user)

    def encode_image(self, image: Image.Image) -> ImageInputs:
        """The patches of an RGB image.

        Raises:
            DataError: the processor would resize an image whose sides already fit the patches, because of its pixel limits.
        """
        assert image.mode == "RGB", image.mode
        features = self._processor.image_processor(images=[image], return_tensors="np")
        grid = tuple(int(n) for n in np.asarray(features["image_grid_thw"])[0])
        width, height = image.size
        fits = width % self.side_multiple == 0 and height % self.side_multiple == 0
        if fits and grid != (1, height // self.patch_size, width // self.patch_size):
            raise DataError(
                f"the processor of the checkpoint resizes an image of {width}x{height} to {grid[2] * self.patch_size}x{grid[1] * self.patch_size}",
                fix="rescale the data into the pixel limits of the checkpoint ('coordexp data rescale'), or change `size` in its preprocessor_config.json",
            )
        pixels = np.ascontiguousarray(features["pixel_values"], dtype=np.float32)
        return ImageInputs(pixel_values=pixels, grid_thw=(grid[0], grid[1], grid[2]))

    def num_prompt_tokens(self, prompt: Prompt, *, width: int, height: int) -> int:
        """Length of `encode(...).token_ids` for an image of this size in pixels, without decoding it."""
        _, ids, _ = self._template(prompt)
        patches = int(self._processor.image_processor.get_number_of_image_patches(height, width))
        return len(ids) - 1 + patches // self.merge_size**2

    def describe(self) -> str:
        """What decides the number of tokens of prompts, images and answers: tokenizer, chat template and image settings, as text."""
        tokenizer = self._processor.tokenizer
        template = getattr(self._processor, "chat_template", None) or tokenizer.chat_template
        return "\n".join((tokenizer.backend_tokenizer.to_str(), str(template), self._processor.image_processor.to_json_string()))

    def _template(self, prompt: Prompt) -> tuple[str, IntArray, int]:
        """(text, ids, position of the only image placeholder)."""
        known = self._templates.get(prompt)
        if known is None:
            known = self._apply_template(prompt)
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            self._templates[prompt] = known
        return known

    def _apply_template(self, prompt: Prompt) -> tuple[str, IntArray, int]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt.user}]}]
        if prompt.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
        text = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = np.asarray(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        at = np.flatnonzero(ids == self.image_token_id)
        if len(at) != 1:
            raise CheckpointError(
                f"the chat template of the checkpoint writes {len(at)} image placeholders for one image", fix="use the chat template of a Qwen3-VL checkpoint"
            )
        return text, ids, int(at[0])
