"""What a folder holds is counted from its headers, and agrees with the model when it is opened."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.models.adapter_files import AdapterBase, save_adapter
from coordexp.models.adapters import AdapterSpec, LoraSpec, RowsSpec, add_adapter
from coordexp.models.inspect import build_empty, inspect_adapter, inspect_checkpoint
from coordexp.models.load import load_model
from coordexp.models.parts import measure_parts
from coordexp.models.tiny import build_tiny
from coordexp.recipes.checkpoints import run_inspect
from coordexp.recipes.stage1_tuner import preview_parts, tune_model
from coordexp.types.errors import CheckpointError, OutputError

Stage1Maker = Callable[..., Loaded[TrainConfig]]


@pytest.mark.parametrize(("folder", "is_tied"), [("tiny_folder", True), ("untied_folder", False)])
def test_a_checkpoint_is_counted_by_part(request: pytest.FixtureRequest, folder: str, is_tied: bool) -> None:
    path = request.getfixturevalue(folder)
    content, loaded = inspect_checkpoint(path), load_model(path)
    assert {part.name: part.num_parameters for part in content.parts} == {size.name: size.total for size in measure_parts(loaded.model)}
    assert {dtype for part in content.parts for dtype in part.dtypes} == {"F32"}
    assert (content.is_tied, content.num_tokens, content.embedding_rows) == (is_tied, len(loaded.tokenizer), loaded.model.config.text_config.vocab_size)
    assert content.coord_ids == loaded.coord_vocab.ids


def test_an_adapter_is_counted_by_part_and_module(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_folder)
    spec = AdapterSpec(LoraSpec(rank=4, alpha=8.0, use_dora=True, target_modules=("q_proj", "qkv")), RowsSpec(loaded.coord_vocab.ids))
    adapted = add_adapter(loaded.model, spec, base=tiny_folder, seed=0)
    save_adapter(adapted, tmp_path, base=AdapterBase(str(tiny_folder), None, "float32"))
    content = inspect_adapter(tmp_path)
    trainable = {size.name: size.trainable for size in measure_parts(adapted)}
    assert content.num_lora == {"llm": trainable["llm"] - 1000 * 128, "vit": trainable["vit"]}
    assert (content.modules, content.rows) == ({"q_proj": 4, "qkv": 4}, {"embed_tokens": 1000})
    text = "\n".join(run_inspect(tmp_path))
    for part in ("DoRA: rank 4, alpha 8.0", "modules: q_proj (4), qkv (4)", "rows: 1000 of embed_tokens", f"trained on: {tiny_folder} in float32"):
        assert part in text


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="full"),
        pytest.param(("tuner.freeze_vit=true", "tuner.freeze_aligner=true"), id="frozen"),
        pytest.param(("tuner.train_type=lora", "tuner.use_dora=true", "custom.coord_offset.enabled=true"), id="dora-rows"),
        pytest.param(("custom.coord_offset.enabled=true",), id="rows"),
    ],
)
def test_the_preview_without_weights_counts_what_is_trained(make_stage1: Stage1Maker, tiny_folder: Path, overrides: tuple[str, ...]) -> None:
    config, loaded = make_stage1(*overrides).config, load_model(tiny_folder)
    model = build_empty(tiny_folder)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert preview_parts(config, model, coord_ids=loaded.coord_vocab.ids, base=tiny_folder) == tune_model(config, loaded).sizes


def test_inspect_says_what_a_training_file_would_train(make_stage1: Stage1Maker, tiny_folder: Path) -> None:
    lines = list(run_inspect(tiny_folder, loaded=make_stage1("tuner.freeze_llm=true", "tuner.freeze_vit=true")))
    aligner = next(part for part in inspect_checkpoint(tiny_folder).parts if part.name == "aligner")
    assert any(line.split()[:2] == ["aligner", f"{aligner.num_parameters:,}"] for line in lines[-3:])
    assert any(line.split()[:2] == ["llm", "0"] for line in lines[-3:])


def test_a_folder_without_coordinate_tokens_is_inspected_but_not_trained(make_stage1: Stage1Maker, tmp_path: Path) -> None:
    plain = build_tiny(tmp_path / "plain", seed=0, with_coord_tokens=False)
    assert list(run_inspect(plain))[-1] == "coordinate tokens: 0 of 1000"
    with pytest.raises(CheckpointError, match="add them: coordexp model expand-vocab"):
        list(run_inspect(plain, loaded=make_stage1()))


def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    from coordexp.recipes.checkpoints import run_expand_vocab, run_merge

    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.png").write_bytes(b"dear")
    for run in (lambda: run_merge(tmp_path, tmp_path / "pictures"), lambda: run_expand_vocab(tmp_path, tmp_path / "pictures")):
        with pytest.raises(OutputError, match="would be replaced, and is no checkpoint"):
            run()
    assert (tmp_path / "pictures" / "holiday.png").read_bytes() == b"dear"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "no tokenizer.json; copy the tokenizer files"),
        ("tokenizer.json", "{", "the tokenizer cannot be read"),
        ("tokenizer_config.json", "[1]", "the tokenizer cannot be read"),
    ],
)
def test_a_folder_whose_tokenizer_is_missing_or_damaged_is_not_counted(tiny_folder: Path, tmp_path: Path, name: str, content: str | None, message: str) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "damaged")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        inspect_checkpoint(folder)


def test_a_configuration_that_is_none_is_one_sentence(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "damaged")
    (folder / "config.json").write_text('{"model_type": "qwen3_vl", "text_config": 3}')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        build_empty(folder)
