from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from coordexp.batching.collate import PackBatch, PaddedCollator
from coordexp.batching.rope import rope_positions
from coordexp.models.load import LoadedModel, load_model
from coordexp.types.sequences import Pack, Segment

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> LoadedModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def segments(loaded: LoadedModel, encode_boxes: Callable[..., list[Segment]]) -> list[Segment]:
    return encode_boxes(loaded, 4)


@pytest.fixture(scope="module")
def collator(loaded: LoadedModel) -> PaddedCollator:
    return PaddedCollator(pad_token_id=int(loaded.tokenizer.pad_token_id), image_token_id=loaded.model.config.image_token_id, merge_size=2)


def logits_of(loaded: LoadedModel, batch: PackBatch) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(**batch.model_inputs, use_cache=False).logits


def test_positions_equal_the_models_own(loaded: LoadedModel, segments: list[Segment], collator: PaddedCollator) -> None:
    inputs = collator(Pack(segments=tuple(segments))).model_inputs
    types = (inputs["input_ids"] == collator.image_token_id).int()
    own, _ = loaded.model.model.get_rope_index(
        inputs["input_ids"], mm_token_type_ids=types, image_grid_thw=inputs["image_grid_thw"], attention_mask=inputs["attention_mask"]
    )
    assert torch.equal(inputs["position_ids"][1:], own)
    assert inputs["position_ids"][0].tolist() == [list(range(own.shape[2]))] * 4


def test_rows_predict_the_tokens_that_follow(segments: list[Segment], collator: PaddedCollator) -> None:
    batch = collator(Pack(segments=tuple(segments)))
    columns = batch.model_inputs["logits_to_keep"]
    row, column = batch.supervision.text_rows // len(columns), batch.supervision.text_rows % len(columns)
    assert torch.equal(batch.model_inputs["input_ids"][row, columns[column] + 1], batch.supervision.text_targets)
    row, column = batch.supervision.coord_rows // len(columns), batch.supervision.coord_rows % len(columns)
    tokens = [segments[r].token_ids[columns[c] + 1] for r, c in zip(row.tolist(), column.tolist(), strict=True)]
    assert tokens == [segment.token_ids[p] for segment in segments for slot in segment.slots for p in slot.positions]


def test_padded_logits_equal_those_of_each_sample_alone(loaded: LoadedModel, segments: list[Segment], collator: PaddedCollator) -> None:
    together = collator(Pack(segments=tuple(segments)))
    padded = logits_of(loaded, together).flatten(0, 1)[together.supervision.text_rows]
    alone = []
    for segment in segments:
        batch = collator(Pack(segments=(segment,)))
        alone.append(logits_of(loaded, batch).flatten(0, 1)[batch.supervision.text_rows])
    assert (padded - torch.cat(alone)).abs().max().item() < 1e-5


def test_equal_lengths_need_no_mask(segments: list[Segment], collator: PaddedCollator) -> None:
    assert "attention_mask" not in collator(Pack(segments=(segments[1], segments[1]))).model_inputs


def test_a_filler_pack_has_no_weight(segments: list[Segment], collator: PaddedCollator) -> None:
    supervision = collator(Pack(segments=(segments[1],), is_filler=True)).supervision
    assert supervision.text_weight.sum() == 0
    assert supervision.coord_weight.sum() == 0


def test_placeholders_must_fit_the_grids() -> None:
    ids = np.array([7, 9, 9, 9, 9, 8], dtype=np.int32)
    assert rope_positions(ids, [(1, 4, 4)], image_token_id=9, merge_size=2)[1:, 5].tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="needs 6 placeholders"):
        rope_positions(ids, [(1, 6, 4)], image_token_id=9, merge_size=2)
    with pytest.raises(ValueError, match="4 image placeholders more"):
        rope_positions(ids, [], image_token_id=9, merge_size=2)
