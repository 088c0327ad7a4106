"""The estimate of activations against what autograd keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from coordexp.batching.collate import PackBatch, PaddedCollator
from coordexp.models.load import LoadedModel, load_model
from coordexp.training.memory import MemoryEstimate, estimate_memory
from coordexp.types.sequences import Pack, Segment


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def batch(loaded: LoadedModel, encode_boxes: Callable[..., list[Segment]]) -> PackBatch:
    collator = PaddedCollator(pad_token_id=0, image_token_id=int(loaded.model.config.image_token_id), merge_size=2)
    return collator(Pack(segments=tuple(encode_boxes(loaded, 8))))


def estimate(loaded: LoadedModel, batch: PackBatch, *, is_half: bool = False, is_checkpointed: bool = False, optim: str = "adamw_torch") -> MemoryEstimate:
    tokens, patches = batch.model_inputs["input_ids"].numel(), batch.model_inputs["pixel_values"].shape[0]
    return estimate_memory(loaded.model, optim=optim, text_tokens=tokens, patches=patches, logit_rows=100, is_half=is_half, is_checkpointed=is_checkpointed)


def kept_bytes(loaded: LoadedModel, batch: PackBatch, *, is_half: bool) -> int:
    """What one forward up to the last hidden states keeps for its backward, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in loaded.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = {name: value for name, value in batch.model_inputs.items() if name != "logits_to_keep"}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
        output = loaded.model.model(**inputs, use_cache=False)
    assert output.last_hidden_state.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("is_half", [False, True])
def test_activations_are_estimated_within_a_third(loaded: LoadedModel, batch: PackBatch, is_half: bool) -> None:
    assert estimate(loaded, batch, is_half=is_half).activations == pytest.approx(kept_bytes(loaded, batch, is_half=is_half), rel=1 / 3)


def test_checkpointing_and_the_optimizer_count(loaded: LoadedModel, batch: PackBatch) -> None:
    plain, checkpointed, descent = estimate(loaded, batch), estimate(loaded, batch, is_checkpointed=True), estimate(loaded, batch, optim="sgd")
    num_parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * num_parameters, 4 * num_parameters, 8 * num_parameters)
    assert descent.optimizer == 0
    assert estimate(loaded, batch, optim="adamw_8bit").optimizer == 2 * num_parameters
    assert checkpointed.activations < 0.5 * plain.activations
    assert plain.logits == 100 * loaded.model.config.text_config.vocab_size * 12
