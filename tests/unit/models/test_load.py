"""A folder that cannot serve is refused in one sentence that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from coordexp.models.load import load_model
from coordexp.types.errors import CheckpointError


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def set_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def break_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def drop_coord_tokens(folder: Path) -> None:
    file = folder / "tokenizer.json"
    document = json.loads(file.read_text())
    document["added_tokens"] = [row for row in document["added_tokens"] if row["content"] != "<|coord_7|>"]
    file.write_text(json.dumps(document))


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.visual.pos_embed.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def truncate_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def drop_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def name_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def empty_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such checkpoint folder; give the path"),
        (without("config.json"), "no config.json; give the path"),
        (break_json, "config.json is not JSON"),
        (set_config(model_type="llama"), "the model type is 'llama', not 'qwen3_vl'; use a Qwen3-VL checkpoint"),
        (without("model.safetensors"), "no model.safetensors; use a checkpoint saved as safetensors"),
        (name_missing_shard, r"1 weight files are missing \(model-00002-of-00002.safetensors\)"),
        (without("preprocessor_config.json"), "no preprocessor_config.json; copy the file"),
        (without("tokenizer.json"), "no tokenizer.json; copy the tokenizer files"),
        (drop_template, "no chat template; copy chat_template.jinja"),
        (drop_coord_tokens, r"the tokenizer has 999 of the 1000 coordinate tokens \(<\|coord_7\|> is missing\)"),
        (drop_tensor, r"1 tensors are missing \(model.visual.pos_embed.weight\)"),
        (truncate_weights, "the weights cannot be loaded"),
        (empty_index, r"model.safetensors.index.json names no weight file; copy the file again"),
        (set_config(text_config=3), r"the tokenizer cannot be read \(Validation error for field 'text_config':\)"),
        (write("tokenizer_config.json", "[1]"), "the tokenizer cannot be read"),
        (write("tokenizer.json", '{"version"'), "the tokenizer cannot be read"),
        (write("preprocessor_config.json", "[1]"), "the processor cannot be read"),
        (write("generation_config.json", "[1]"), "the weights cannot be loaded"),
    ],
    ids=[
        "folder",
        "config",
        "json",
        "type",
        "weights",
        "shard",
        "image",
        "tokenizer",
        "template",
        "coords",
        "tensor",
        "truncated",
        "index",
        "section",
        "settings",
        "cut",
        "list",
        "generation",
    ],
)
def test_a_damaged_folder_is_refused(untrained: Path, tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = shutil.copytree(untrained, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("option", "message"), [({"dtype": "int8"}, "unknown dtype 'int8'"), ({"attn_implementation": "magic"}, "unknown attention")], ids=str)
def test_an_unknown_setting_is_refused_with_the_known_ones(untrained: Path, option: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(untrained, **option)


def test_a_loaded_model_is_complete(untrained: Path) -> None:
    loaded = load_model(untrained, attn_implementation="eager")
    assert (loaded.attn_requested, loaded.attn_used) == ("eager", "eager")
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.coord_vocab.ids == tuple(AutoTokenizer.from_pretrained(untrained).convert_tokens_to_ids([f"<|coord_{k}|>" for k in range(1000)]))
