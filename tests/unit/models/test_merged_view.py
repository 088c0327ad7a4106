from pathlib import Path

import pytest
import torch
from peft import PeftModel

from coordexp.models.adapter_files import AdapterBase, save_adapter
from coordexp.models.adapters import AdapterSpec, LoraSpec, RowsSpec, add_adapter, is_tied
from coordexp.models.load import load_model
from coordexp.models.merge import merge_adapter
from coordexp.models.merged_view import merged_tensors
from coordexp.types.errors import ConfigError

LORA = LoraSpec(rank=4, alpha=8.0)
DORA = LoraSpec(rank=4, alpha=8.0, use_dora=True)


def adapted(folder: Path, lora: LoraSpec | None, *, rows: bool) -> PeftModel:
    loaded = load_model(folder, dtype="float32")
    spec = AdapterSpec(lora=lora, rows=RowsSpec(loaded.coord_vocab.ids, tie_head=is_tied(loaded.model)) if rows else None)
    model = add_adapter(loaded.model, spec, base=folder, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("checkpoint", ["tiny_folder", "untied_folder"])
@pytest.mark.parametrize(("lora", "rows"), [(LORA, False), (DORA, False), (None, True), (DORA, True)], ids=["lora", "dora", "rows", "dora and rows"])
def test_it_is_the_merged_checkpoint_to_the_last_bit(
    request: pytest.FixtureRequest, tmp_path: Path, checkpoint: str, lora: LoraSpec | None, rows: bool
) -> None:
    folder = request.getfixturevalue(checkpoint)
    model = adapted(folder, lora, rows=rows)
    (tmp_path / "adapter").mkdir()
    save_adapter(model, tmp_path / "adapter", base=AdapterBase(path=str(folder)))
    expected = dict(merge_adapter(tmp_path / "adapter", tmp_path / "merged", dtype="float32").model.named_parameters())

    found = dict(merged_tensors(model))

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_model_in_training_stays_as_it_is(tiny_folder: Path) -> None:
    model = adapted(tiny_folder, DORA, rows=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(merged_tensors(model, dtype=torch.bfloat16))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_plain_model_is_sent_as_it_is_with_a_shared_matrix_once(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, dtype="float32").model
    found = dict(merged_tensors(model))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert "lm_head.weight" not in found


def test_a_lora_on_the_shared_matrix_is_refused(tiny_folder: Path) -> None:
    loaded = load_model(tiny_folder, dtype="float32")
    model = add_adapter(loaded.model, AdapterSpec(lora=LoraSpec(rank=2, alpha=2.0, target_modules=("lm_head",))), base=tiny_folder, seed=0)
    with pytest.raises(ConfigError, match="with it merged they are two"):
        list(merged_tensors(model))
