"""Adapters: where they lie, what they train, and that merged checkpoints compute the same."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from coordexp.models.adapter_files import BASE_NAME, WEIGHTS_NAME, AdapterBase, check_settings, check_weights, fingerprint_weights, read_adapter, save_adapter
from coordexp.models.adapters import AdapterSpec, LoraSpec, RowsSpec, add_adapter, is_tied
from coordexp.models.load import LoadedModel, load_model
from coordexp.models.merge import merge_adapter
from coordexp.models.parts import measure_parts, part_of
from coordexp.types.errors import CheckpointError, ConfigError

LORA = LoraSpec(rank=4, alpha=8.0)
DORA = dataclasses.replace(LORA, use_dora=True)


def rows_of(loaded: LoadedModel) -> RowsSpec:
    return RowsSpec(loaded.coord_vocab.ids, tie_head=is_tied(loaded.model))


def add(loaded: LoadedModel, *, lora: LoraSpec | None = LORA, rows: RowsSpec | None = None, seed: int = 0) -> nn.Module:
    return add_adapter(loaded.model, AdapterSpec(lora=lora, rows=rows), base=loaded.path, seed=seed)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def shake(model: nn.Module) -> None:
    """As after some training: LoRA's second matrices are no longer 0."""
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=noise)


def picture_inputs(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """A picture, text, and coordinate tokens."""
    noise = torch.Generator().manual_seed(3)
    grid = torch.tensor([[1, 4, 4]])
    pixels = torch.randn(16, 3 * 2 * 8 * 8, generator=noise)
    config = loaded.model.config
    ids = torch.cat((torch.arange(5), torch.full((4,), config.image_token_id), torch.tensor(loaded.coord_vocab.ids[::97]), torch.arange(60, 70)))
    types = (ids == config.image_token_id).long()[None]
    return {"input_ids": ids[None], "pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": types}


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(**inputs, use_cache=False).logits


def save(adapted: nn.Module, loaded: LoadedModel, folder: Path) -> Path:
    folder.mkdir()
    save_adapter(adapted, folder, base=AdapterBase(str(loaded.path), fingerprint_weights(loaded.path), "float32"))
    return folder


def test_a_new_adapter_changes_nothing_and_freezes_the_model(tiny_folder: Path) -> None:
    loaded = load_model(tiny_folder)
    inputs = picture_inputs(loaded)
    before = logits(loaded.model, inputs)
    adapted = add(loaded, rows=rows_of(loaded))
    torch.testing.assert_close(logits(adapted, inputs), before, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(loaded.model, inputs), before, rtol=0, atol=1e-6)
    assert all("lora_" in name or "trainable_tokens" in name for name in trained(adapted))


def test_lora_lies_on_every_linear_layer_but_the_head(tiny_folder: Path) -> None:
    loaded = load_model(tiny_folder)
    linear = {name for name, module in loaded.model.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    adapted = add(loaded)
    found = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained(adapted)}
    assert found == linear
    assert {part_of(name) for name in found} == {"llm", "vit", "aligner"}


@pytest.mark.parametrize(("frozen", "left"), [(("vit", "aligner"), {"llm"}), (("llm",), {"vit", "aligner"}), (("llm", "vit"), {"aligner"})])
def test_frozen_parts_get_no_lora(tiny_folder: Path, frozen: tuple[str, ...], left: set[str]) -> None:
    adapted = add(load_model(tiny_folder), lora=dataclasses.replace(LORA, frozen_parts=frozenset(frozen)))
    assert {size.name for size in measure_parts(adapted) if size.trainable} == left


def test_modules_are_named_by_their_last_parts(tiny_folder: Path) -> None:
    adapted = add(load_model(tiny_folder), lora=dataclasses.replace(LORA, target_modules=("q_proj", "layers.1.mlp.up_proj", "lm_head")))
    found = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in trained(adapted)}
    layers = {f"model.language_model.layers.{number}.self_attn.q_proj" for number in range(4)}
    assert found == layers | {"model.language_model.layers.1.mlp.up_proj", "lm_head"}


@pytest.mark.parametrize("folder", ["tiny_folder", "untied_folder"])
def test_of_embedding_and_head_only_the_coordinate_rows_are_trained(request: pytest.FixtureRequest, folder: str) -> None:
    loaded = load_model(request.getfixturevalue(folder))
    adapted = add(loaded, lora=None, rows=rows_of(loaded))
    tables = trained(adapted)
    assert [tuple(table.shape) for table in tables.values()] == [(1000, 128)] * (1 if folder == "tiny_folder" else 2)
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    logits_sum = adapted(**picture_inputs(loaded), use_cache=False).logits.square().sum()
    logits_sum.backward()
    torch.optim.SGD(adapted.parameters(), lr=0.1).step()
    changed = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(tables)


@pytest.mark.parametrize(
    ("folder", "lora", "has_rows"),
    [
        pytest.param("tiny_folder", LORA, False, id="lora"),
        pytest.param("tiny_folder", DORA, False, id="dora"),
        pytest.param("tiny_folder", None, True, id="rows-tied"),
        pytest.param("untied_folder", None, True, id="rows-untied"),
        pytest.param("tiny_folder", LORA, True, id="lora-rows-tied"),
        pytest.param("untied_folder", LORA, True, id="lora-rows-untied"),
        pytest.param("tiny_folder", DORA, True, id="dora-rows-tied"),
        pytest.param("untied_folder", DORA, True, id="dora-rows-untied"),
        pytest.param("tiny_folder", dataclasses.replace(LORA, target_modules=("q_proj", "lm_head")), False, id="lora-on-tied-head"),
        pytest.param("untied_folder", dataclasses.replace(DORA, target_modules=("q_proj", "lm_head")), False, id="dora-on-untied-head"),
        pytest.param("tiny_folder", dataclasses.replace(LORA, target_modules=("embed_tokens",)), False, id="lora-on-tied-embedding"),
    ],
)
def test_a_merged_checkpoint_has_the_logits_of_the_adapter(
    request: pytest.FixtureRequest, tmp_path: Path, folder: str, lora: LoraSpec | None, has_rows: bool
) -> None:
    loaded = load_model(request.getfixturevalue(folder))
    inputs = picture_inputs(loaded)
    plain = logits(loaded.model, inputs)
    adapted = add(loaded, lora=lora, rows=rows_of(loaded) if has_rows else None)
    shake(adapted)
    expected = logits(adapted, inputs)
    assert (expected - plain).abs().max() > 0.05
    merge_adapter(save(adapted, loaded, tmp_path / "adapter"), tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("adapter*"))
    torch.testing.assert_close(logits(load_model(tmp_path / "merged").model, inputs), expected, rtol=0, atol=1e-5)


STOCK = """
import sys, torch
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
saved = torch.load(sys.argv[2])
with torch.no_grad():
    difference = (model(**saved["inputs"], use_cache=False).logits - saved["logits"]).abs().max().item()
assert difference <= 1e-5, difference
assert "coordexp" not in sys.modules and "peft" not in sys.modules
"""


@pytest.mark.slow
def test_a_merged_checkpoint_opens_with_stock_transformers(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    adapted = add(loaded, lora=DORA, rows=rows_of(loaded))
    shake(adapted)
    inputs = picture_inputs(loaded)
    torch.save({"inputs": inputs, "logits": logits(adapted, inputs)}, tmp_path / "saved.pt")
    merge_adapter(save(adapted, loaded, tmp_path / "adapter"), tmp_path / "merged")
    done = subprocess.run([sys.executable, "-c", STOCK, tmp_path / "merged", tmp_path / "saved.pt"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_number_format_of_a_merged_checkpoint_can_be_chosen(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    folder = save(add(loaded), loaded, tmp_path / "adapter")
    merge_adapter(folder, tmp_path / "merged", dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "merged" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_seed_decides_the_start_and_the_callers_random_state_stays(tiny_folder: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (trained(add(load_model(tiny_folder), seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("lora", "rows", "message"),
    [
        pytest.param(dataclasses.replace(LORA, target_modules=("query",)), None, "no module 'query'; use some of .*q_proj", id="unknown"),
        pytest.param(dataclasses.replace(LORA, target_modules=("input_layernorm",)), None, "is no linear layer", id="norm"),
        pytest.param(
            dataclasses.replace(LORA, target_modules=("q_proj",), frozen_parts=frozenset({"llm"})), None, "'q_proj' belongs to llm, which", id="frozen-part"
        ),
        pytest.param(dataclasses.replace(LORA, frozen_parts=frozenset({"llm", "vit", "aligner"})), None, "every part of the model is frozen", id="all-frozen"),
        pytest.param(dataclasses.replace(LORA, target_modules=("lm_head",)), True, "lm_head is named, and its coordinate rows", id="head-and-rows"),
        pytest.param(None, False, "false needs a head of its own", id="two-tables-on-tied"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(tiny_folder: Path, lora: LoraSpec | None, rows: bool | None, message: str) -> None:
    loaded = load_model(tiny_folder)
    with pytest.raises(ConfigError, match=message):
        add(loaded, lora=lora, rows=None if rows is None else RowsSpec(loaded.coord_vocab.ids, tie_head=rows))


def test_one_table_for_two_matrices_is_refused(untied_folder: Path) -> None:
    loaded = load_model(untied_folder)
    with pytest.raises(ConfigError, match=r"tie_head: true needs one matrix .* set it to false"):
        add(loaded, lora=None, rows=RowsSpec(loaded.coord_vocab.ids))


def test_an_adapter_on_other_weights_is_refused(tiny_folder: Path, untied_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    folder = save(add(loaded), loaded, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="are not those that the adapter was trained on"):
        merge_adapter(folder, tmp_path / "merged", base=untied_folder)
    merge_adapter(folder, tmp_path / "merged", base=Path(shutil.copytree(tiny_folder, tmp_path / "moved")))


def test_an_adapter_of_another_tool_is_merged(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    inputs = picture_inputs(loaded)
    adapted = add(loaded)
    shake(adapted)
    folder = save(adapted, loaded, tmp_path / "adapter")
    (folder / BASE_NAME).unlink()
    merged = merge_adapter(folder, tmp_path / "merged")
    torch.testing.assert_close(logits(merged.model, inputs), logits(adapted, inputs), rtol=0, atol=1e-5)


def test_damaged_or_foreign_adapter_folders_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    adapted = add(loaded)
    folder = save(adapted, loaded, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="no such adapter folder"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        read_adapter(tiny_folder)
    with pytest.raises(CheckpointError, match="would replace what it is made from"):
        merge_adapter(folder, tiny_folder)
    with pytest.raises(CheckpointError, match=r"merge it: coordexp model merge --adapter"):
        load_model(folder)
    tensors = load_file(folder / WEIGHTS_NAME)
    broken = dict(tensors)
    broken.pop(sorted(broken)[0])
    save_file(broken, folder / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match="1 tensors differ from the adapter"):
        merge_adapter(folder, tmp_path / "merged")
    tensors[sorted(tensors)[0]].fill_(torch.nan)
    save_file(tensors, folder / WEIGHTS_NAME)
    with pytest.raises(CheckpointError, match="cannot be merged"):
        merge_adapter(folder, tmp_path / "merged")
    (folder / WEIGHTS_NAME).write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        merge_adapter(folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_checkpoint_is_resumed_with_its_own_settings_only(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    folder = save(add(loaded), loaded, tmp_path / "adapter")
    check_settings(add(load_model(tiny_folder)), folder)
    check_weights(add(load_model(tiny_folder)), folder)
    with pytest.raises(CheckpointError, match=r"trained with lora_alpha 8\.0, not 16\.0"):
        check_settings(add(load_model(tiny_folder), lora=dataclasses.replace(LORA, alpha=16.0)), folder)
    with pytest.raises(CheckpointError, match="tensors differ"):
        check_weights(add(load_model(tiny_folder), lora=dataclasses.replace(LORA, rank=2)), folder)
