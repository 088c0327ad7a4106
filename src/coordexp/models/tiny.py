"""The tiny real Qwen3-VL: every part of the architecture at the size of a test. Weights and merges depend on the seed alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from coordexp.codec.coord_tokens import coord_tokens
from coordexp.models.disk import DiskErrors
from coordexp.models.load import load_model
from coordexp.models.tokenizer import IM_END, IMAGE_PAD, VIDEO_PAD, VISION_END, VISION_START, train_tokenizer
from coordexp.models.weights import write_weights
from coordexp.types.files import atomic_folder

PATCH_SIZE: Final = 8
MERGE_SIZE: Final = 2
SIDE_MULTIPLE: Final = PATCH_SIZE * MERGE_SIZE
IMAGE_MEAN: Final = 0.5
IMAGE_STD: Final = 0.5
# an image whose sides are multiples of 16 between these areas is never resized by the processor
MIN_PIXELS: Final = 32 * 32
MAX_PIXELS: Final = 1024 * 1024
_EMBEDDING_STD: Final = 0.04


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """A Qwen3-VL of about two million parameters. Heads have 32 dimensions: smaller ones are refused by vLLM's CPU attention."""
    end, pad = tokenizer.convert_tokens_to_ids([IM_END, str(tokenizer.pad_token)])  # pyright: ignore[reportGeneralTypeIssues]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    vision = {
        "depth": 4,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 144,
        "deepstack_visual_indexes": [1],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_PAD),  # pyright: ignore[reportArgumentType]
        video_token_id=tokenizer.convert_tokens_to_ids(VIDEO_PAD),  # pyright: ignore[reportArgumentType]
        vision_start_token_id=tokenizer.convert_tokens_to_ids(VISION_START),  # pyright: ignore[reportArgumentType]
        vision_end_token_id=tokenizer.convert_tokens_to_ids(VISION_END),  # pyright: ignore[reportArgumentType]
        tie_word_embeddings=True,
    )


def build_tiny_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> Qwen3VLForConditionalGeneration:
    """Untrained float32 weights; the random state of the caller is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(tiny_config(tokenizer)).float()
        with torch.no_grad():
            rows = model.get_input_embeddings().weight
            rows.normal_(0.0, _EMBEDDING_STD)  # pyright: ignore[reportCallIssue]
            vocab = tokenizer.get_vocab()
            ids = torch.tensor([vocab[token] for token in coord_tokens() if token in vocab], dtype=torch.long)
            if len(ids):
                rows[ids] = coord_embeddings(len(ids), rows.shape[1]) * _EMBEDDING_STD  # pyright: ignore[reportArgumentType, reportIndexIssue]
    end, pad = tokenizer.convert_tokens_to_ids([IM_END, str(tokenizer.pad_token)])  # pyright: ignore[reportGeneralTypeIssues]
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    model.generation_config.do_sample = False
    return model.eval()


def coord_embeddings(num_bins: int, size: int) -> torch.Tensor:
    """[num_bins, size] smooth Fourier features of the bin, unit variance: neighbouring bins start as neighbours, with periods from 2·num_bins to 16 bins."""
    octaves = torch.linspace(math.log(2.0 * num_bins), math.log(16.0), size // 2)
    angle = 2.0 * math.pi * torch.arange(num_bins)[:, None] / octaves.exp()[None, :]
    return torch.cat((angle.cos(), angle.sin()), dim=1) * math.sqrt(2.0)


def build_tiny(dst: Path, *, seed: int, with_coord_tokens: bool = True) -> Path:
    """Write an untrained tiny checkpoint as an ordinary folder; without coordinate tokens it is like a published Qwen3-VL.

    Raises:
        OutputError: the folder cannot be written.
    """
    tokenizer = train_tokenizer(seed, with_coord_tokens=with_coord_tokens)
    write_tiny(dst, build_tiny_model(tokenizer, seed=seed), tokenizer)
    return dst


def build_plain_tiny(trained: Path, dst: Path) -> Path:
    """Write the weights of a trained tiny checkpoint without its coordinate tokens: what a published Qwen3-VL is, which sees but has no words for places.

    Raises:
        OutputError: the folder cannot be written.
    """
    tokenizer = train_tokenizer(0, with_coord_tokens=False)
    model = build_tiny_model(tokenizer, seed=0)
    loaded = load_model(trained, dtype="float32")
    known: Any = loaded.tokenizer
    rows = known.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    weights = loaded.model.state_dict()
    model.load_state_dict({name: tensor[rows] if name.endswith(("embed_tokens.weight", "lm_head.weight")) else tensor for name, tensor in weights.items()})
    write_tiny(dst, model, tokenizer)
    return dst


def write_tiny(dst: Path, model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, *, dtype: torch.dtype = torch.float32) -> None:
    """Weights, tokenizer and image settings in the form in which Qwen3-VL checkpoints are published; `dst` is replaced as a whole."""
    with atomic_folder(dst) as folder, DiskErrors(dst.parent):
        write_weights(model, folder, dtype=dtype)
        tokenizer.save_pretrained(folder)
        for name, settings in image_settings().items():
            (folder / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)


def image_settings() -> dict[str, dict[str, Any]]:
    """The two files by which any version of transformers finds Qwen3-VL's image and video processor."""
    shared = {
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "patch_size": PATCH_SIZE,
        "merge_size": MERGE_SIZE,
        "temporal_patch_size": 2,
        "image_mean": [IMAGE_MEAN] * 3,
        "image_std": [IMAGE_STD] * 3,
        "processor_class": "Qwen3VLProcessor",
    }
    return {
        "preprocessor_config.json": {**shared, "image_processor_type": "Qwen2VLImageProcessor"},
        "video_preprocessor_config.json": {**shared, "video_processor_type": "Qwen3VLVideoProcessor"},
    }
