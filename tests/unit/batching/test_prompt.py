from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import Prompt, PromptSpec, build_prompt
from coordexp.models.processor import load_processor
from coordexp.types.errors import DataError

PROMPT = build_prompt(PromptSpec())


@pytest.fixture(scope="module")
def processor(tiny_folder: Path):
    return load_processor(tiny_folder)


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (48, 48)])
def test_ids_and_pixels_equal_the_processors_own(processor, size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    encoded = PromptEncoder(processor).encode(PROMPT, image)
    whole = processor(text=[encoded.text], images=[image], return_tensors="np")
    assert encoded.token_ids.tolist() == whole["input_ids"][0].tolist()
    assert np.array_equal(encoded.images[0].pixel_values, whole["pixel_values"])
    assert list(encoded.images[0].grid_thw) == whole["image_grid_thw"][0].tolist()


def test_the_length_is_known_without_the_image(processor) -> None:
    encoder = PromptEncoder(processor)
    encoded = encoder.encode(PROMPT, Image.new("RGB", (96, 64)))
    assert encoder.num_prompt_tokens(PROMPT, width=96, height=64) == len(encoded.token_ids)


def test_the_prompt_ends_where_the_answer_begins(processor) -> None:
    encoded = PromptEncoder(processor).encode(Prompt(system="", user="Look."), Image.new("RGB", (32, 32)))
    assert encoded.text.endswith("<|im_start|>assistant\n")
    assert "system" not in encoded.text


def test_a_fitting_image_that_would_be_resized_is_an_error(tiny_folder: Path) -> None:
    processor = load_processor(tiny_folder)
    processor.image_processor.size = {"shortest_edge": 1024, "longest_edge": 64 * 64}
    with pytest.raises(DataError, match="resizes an image of 96x96 to 64x64"):
        PromptEncoder(processor).encode(PROMPT, Image.new("RGB", (96, 96)))
