"""The tiny checkpoint is an ordinary Qwen3-VL folder, and its processor needs no torchvision."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from coordexp.batching.prompt import PromptEncoder
from coordexp.codec.prompts import PromptSpec, build_prompt
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.export import save_checkpoint
from coordexp.models.load import load_model
from coordexp.models.pretrain_data import to_patches
from coordexp.models.pretrain_tiny import encode_prompt
from coordexp.models.processor import load_processor
from coordexp.models.tiny import build_tiny, coord_embeddings


def hashes_of(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_the_same_seed_builds_the_same_bytes(untrained: Path, tmp_path: Path) -> None:
    assert hashes_of(build_tiny(tmp_path / "again", seed=0)) == hashes_of(untrained)


def test_another_seed_builds_other_weights_and_the_callers_random_state_stays(untrained: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    other = build_tiny(tmp_path / "other", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert hashes_of(other)["model.safetensors"] != hashes_of(untrained)["model.safetensors"]


def test_stock_transformers_opens_the_folder(untrained: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(untrained)
    assert isinstance(model, Qwen3VLForConditionalGeneration)
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 4e6
    assert model.config.text_config.head_dim == 32
    assert len(AutoTokenizer.from_pretrained(untrained)) == model.get_input_embeddings().weight.shape[0]


def test_the_processor_has_an_image_part_and_loads_no_torchvision(untrained: Path) -> None:
    processor = load_processor(untrained)
    assert isinstance(processor, Qwen3VLProcessor)
    assert (processor.image_processor.patch_size, processor.image_processor.merge_size) == (8, 2)
    assert "torchvision" not in sys.modules


@pytest.mark.parametrize("size", [(96, 96), (32, 32), (160, 96), (512, 400), (1024, 1024)], ids=str)
def test_an_image_with_sides_of_sixteen_is_not_resized(untrained: Path, size: tuple[int, int]) -> None:
    width, height = size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    inputs = PromptEncoder(load_processor(untrained)).encode(build_prompt(PromptSpec()), picture)
    assert inputs.images[0].grid_thw == (1, height // 8, width // 8)
    if width == height:
        assert np.array_equal(to_patches([np.asarray(picture)])[0], inputs.images[0].pixel_values)


def test_pretraining_sees_the_prompt_of_training_and_inference(untrained: Path) -> None:
    inputs = PromptEncoder(load_processor(untrained)).encode(build_prompt(PromptSpec()), Image.new("RGB", (96, 96)))
    assert inputs.token_ids.tolist() == encode_prompt(untrained, side=96).tolist()


def test_a_saved_checkpoint_loads_with_equal_weights_and_settings(untrained: Path, tmp_path: Path) -> None:
    loaded = load_model(untrained)
    again = load_model(save_checkpoint(loaded, tmp_path / "saved"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), again.model.state_dict().values(), strict=True))
    assert {file.name for file in again.path.iterdir()} == {file.name for file in untrained.iterdir()}
    assert again.coord_vocab == loaded.coord_vocab
    assert again.processor.chat_template == loaded.processor.chat_template


def test_a_checkpoint_saved_as_float16_says_so_and_loads_as_float32(untrained: Path, tmp_path: Path) -> None:
    loaded = load_model(untrained)
    folder = save_checkpoint(loaded, tmp_path / "half", dtype=torch.float16)
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (untrained / "model.safetensors").stat().st_size
    assert Qwen3VLForConditionalGeneration.from_pretrained(folder).dtype == torch.float16
    assert load_model(folder).model.dtype == torch.float32 == loaded.model.dtype


def test_neighbouring_bins_begin_as_neighbours() -> None:
    rows = coord_embeddings(1000, 128)
    near, far = (rows[500] @ rows[501]), (rows[500] @ rows[900])
    assert rows.std().item() == pytest.approx(1.0, abs=0.02)
    assert near > 0.8 * (rows[500] @ rows[500]) > 2 * far


@pytest.mark.slow
def test_the_shipped_checkpoint_is_small_and_opens_everywhere() -> None:
    folder = tiny_checkpoint()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10_000_000
    assert isinstance(AutoModelForImageTextToText.from_pretrained(folder), Qwen3VLForConditionalGeneration)
    assert load_model(folder).model.dtype == torch.float32
