"""Anchor: what collators attach for diagnostics never reaches the model, and a required field that is missing is named with its sample and collator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coordexp.batching.collate import MODEL_INPUTS, BatchContractError, Collator, PackBatch, PaddedCollator
from coordexp.batching.packed import PackedCollator
from coordexp.losses.rows import OutputHead
from coordexp.models.head import forward_through_head
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.sequences import Pack, Segment

EXTRAS = {"sample_ids", "dataset_labels", "dataset_segments", "pack_num_samples", "token_types"}

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def segments(loaded: LoadedModel, encode_boxes: Callable[..., list[Segment]]) -> list[Segment]:
    return encode_boxes(loaded, 4)


@pytest.fixture(scope="module", params=["PaddedCollator", "PackedCollator"])
def collator(request: pytest.FixtureRequest, loaded: LoadedModel) -> Collator:
    image_token = int(loaded.model.config.image_token_id)
    if request.param == "PackedCollator":
        return PackedCollator(image_token_id=image_token, merge_size=2, capacity=4096)
    return PaddedCollator(pad_token_id=0, image_token_id=image_token, merge_size=2)


def test_each_collator_attaches_the_extras_apart_from_the_inputs(segments: list[Segment], collator: Collator) -> None:
    batch = collator(Pack(segments=tuple(segments)))
    assert set(batch.extras) == EXTRAS
    assert not batch.model_inputs.keys() & EXTRAS
    assert batch.extras["sample_ids"] == tuple(segment.sample_id for segment in segments)
    assert batch.extras["dataset_labels"] == ("boxes",) * 4
    assert batch.extras["pack_num_samples"] == 4
    ids = batch.model_inputs["input_ids"]
    assert batch.extras["token_types"].shape == tuple(ids.shape)
    for (row, start, end), segment in zip(batch.extras["dataset_segments"], segments, strict=True):
        assert ids[row, start:end].tolist() == segment.token_ids.tolist()


def test_the_model_is_called_with_its_inputs_and_nothing_else(loaded: LoadedModel, segments: list[Segment], collator: Collator) -> None:
    batch = collator(Pack(segments=tuple(segments)))
    poisoned = replace(batch, extras={**batch.extras, "labels": torch.zeros(1), "made_up": object()})
    names: list[set[str]] = []

    def note(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names.append(set(kwargs))

    def compute(hidden: torch.Tensor, head: OutputHead) -> torch.Tensor:
        return head.logits(hidden).sum()

    hook = loaded.model.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        sums = [forward_through_head(loaded.model, given.model_inputs, compute).item() for given in (batch, poisoned)]
    hook.remove()
    assert sums[0] == sums[1]
    assert names == [{*batch.model_inputs, "use_cache"}] * 2
    assert batch.model_inputs.keys() <= MODEL_INPUTS


@pytest.mark.parametrize("name", [*sorted(EXTRAS), "labels", "made_up"])
def test_an_extra_among_the_inputs_is_refused(segments: list[Segment], collator: Collator, name: str) -> None:
    batch = collator(Pack(segments=tuple(segments)))
    with pytest.raises(BatchContractError, match=rf"\['{name}'\] must not reach the model"):
        replace(batch, model_inputs={**batch.model_inputs, name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["dataset", "ce_weight", "roles", "slots", "images"])
def test_a_missing_field_is_named_with_its_sample_and_collator(segments: list[Segment], collator: Collator, name: str) -> None:
    broken = replace(segments[2], **{name: None})
    with pytest.raises(BatchContractError, match=f"^{type(collator).__name__}: sample 'train:3': the required field '{name}' is missing$"):
        collator(Pack(segments=(segments[0], broken)))


@pytest.mark.parametrize("name", ["ce_weight", "roles"])
def test_a_field_of_wrong_length_is_named_with_its_sample_and_collator(segments: list[Segment], collator: Collator, name: str) -> None:
    broken = replace(segments[2], **{name: getattr(segments[2], name)[:-1]})
    with pytest.raises(BatchContractError, match=f"^{type(collator).__name__}: sample 'train:3': '{name}' has"):
        collator(Pack(segments=(segments[0], broken)))


def test_a_missing_extra_names_its_reader_and_the_samples(segments: list[Segment], collator: Collator) -> None:
    batch: PackBatch = collator(Pack(segments=(segments[0],)))
    with pytest.raises(BatchContractError, match=r"^Monitor needs the batch extra 'teacher'.*train:1"):
        batch.extra("teacher", reader="Monitor")
