"""Checkpoints from strangers: code that lies in them is not run, pickles are not opened, files outside of their folder are not read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from coordexp.cli.main import main
from coordexp.models.load import load_model
from coordexp.recipes.stage1 import run_stage1
from coordexp.types.errors import CheckpointError

CODE = "import os\nos.mkdir(os.environ['COORDEXP_TEST_HACKED'])\n"
CLASSES = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")
CONFIGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


class _Exploit:
    """Opened as a pickle, it makes a folder."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ["COORDEXP_TEST_HACKED"],)


@pytest.fixture
def hacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Is there after the attack worked."""
    path = tmp_path / "hacked"
    monkeypatch.setenv("COORDEXP_TEST_HACKED", str(path))
    return path


@pytest.fixture
def checkpoint(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "stranger"))


def _change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_attacks_of_these_tests_work_where_they_are_let(hacked: Path, tmp_path: Path) -> None:
    torch.save(_Exploit(), tmp_path / "exploit.pt")
    torch.load(tmp_path / "exploit.pt", weights_only=False)
    assert hacked.is_dir()
    hacked.rmdir()
    exec(CODE)
    assert hacked.is_dir()


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "StrangerTokenizer"])
@pytest.mark.parametrize("command", [["model", "inspect", "{}"], ["doctor", "data", "data.jsonl", "--model", "{}"]], ids=["inspect", "doctor"])
def test_code_in_a_checkpoint_is_not_run(command: list[str], tokenizer_class: str, checkpoint: Path, hacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint / "stranger.py").write_text(CODE)
    for name in CONFIGS:
        _change(checkpoint / name, auto_map=dict.fromkeys(CLASSES, "stranger.Class"))
    _change(checkpoint / "tokenizer_config.json", tokenizer_class=tokenizer_class, auto_map={"AutoTokenizer": ["stranger.Class", "stranger.Class"]})
    monkeypatch.chdir(checkpoint.parent)
    Path("data.jsonl").write_text("")
    assert main([part.format(checkpoint) for part in command]) in (0, 2)
    load_model(checkpoint)
    assert not hacked.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused(name: str, checkpoint: Path, hacked: Path) -> None:
    torch.save({"weights": _Exploit()}, checkpoint / name)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        load_model(checkpoint)
    assert not hacked.exists()


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/secret.safetensors", "pytorch_model.bin", "a/b.safetensors", 7], ids=str)
def test_an_index_names_safetensors_of_its_own_folder(shard: object, checkpoint: Path, hacked: Path) -> None:
    torch.save({"weights": _Exploit()}, checkpoint / "pytorch_model.bin")
    shutil.copyfile(checkpoint / "model.safetensors", checkpoint.parent / "secret.safetensors")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shard}}))
    with pytest.raises(CheckpointError, match="which is no safetensors file of the folder"):
        load_model(checkpoint)
    assert not hacked.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_that_is_resumed_is_one_sentence(name: str, make_stage1: Any, hacked: Path) -> None:
    run = run_stage1(make_stage1("training.max_steps=1", "training.save_steps=1", "custom.val_jsonl=null"))
    torch.save(_Exploit(), run / "checkpoint-1" / name)
    with pytest.raises(CheckpointError, match=f"{name} is not opened .it holds something else than tensors"):
        run_stage1(make_stage1("training.max_steps=2", "custom.val_jsonl=null", "training.resume_from_checkpoint=true"))
    assert not hacked.exists()


def test_a_state_that_is_cut_off_is_one_sentence(make_stage1: Any) -> None:
    run = run_stage1(make_stage1("training.max_steps=1", "training.save_steps=1", "custom.val_jsonl=null"))
    state = run / "checkpoint-1" / "optimizer.pt"
    os.truncate(state, state.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"optimizer\.pt is not opened"):
        run_stage1(make_stage1("training.max_steps=2", "custom.val_jsonl=null", "training.resume_from_checkpoint=true"))
