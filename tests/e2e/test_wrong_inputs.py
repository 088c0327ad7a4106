"""What a user gets wrong: one clear sentence, exit code 2, nothing written. Through the real command, on real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.models.tiny import build_tiny

RECORD: dict[str, Any] = {
    "images": ["images/a.png"],
    "objects": [{"desc": "cat", "bbox_2d": ["<|coord_10|>", "<|coord_20|>", "<|coord_500|>", "<|coord_600|>"]}],
    "width": 96,
    "height": 96,
    "coord_space": "token",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny(folder, seed=0)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, checkpoint: Path) -> Path:
    """A folder with one valid record, its image and a training and an inference file; `output` does not exist yet."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (96, 96), "gray").save(tmp_path / "images" / "a.png")
    _write_record(tmp_path, RECORD)
    (tmp_path / "train.yaml").write_text(
        f"model: {{model: {checkpoint}, torch_dtype: float32}}\n"
        f"training: {{output_dir: {tmp_path}/output, run_name: r, learning_rate: 1.0e-3, max_steps: 1, per_device_train_batch_size: 1, use_cpu: true}}\n"
        f"custom: {{train_jsonl: {tmp_path}/train.jsonl}}\n"
    )
    (tmp_path / "infer.yaml").write_text(
        f"run: {{name: r, output_dir: {tmp_path}/output}}\n"
        f"infer: {{gt_jsonl: {tmp_path}/train.jsonl, model_checkpoint: {checkpoint}, mode: coord, device: cpu, generation: {{max_new_tokens: 8}}}}\n"
    )
    return tmp_path


def _write_record(folder: Path, *records: dict[str, Any]) -> None:
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def _changed(folder: Path, **changes: Any) -> None:
    _write_record(folder, RECORD, {**RECORD, **changes})


def _box(*bins: int) -> list[dict[str, Any]]:
    return [{"desc": "cat", "bbox_2d": [f"<|coord_{k}|>" for k in bins]}]


def _without_coordinate_tokens(folder: Path) -> None:
    """The checkpoint's tokenizer forgets that the coordinate tokens exist."""
    source = Path((folder / "train.yaml").read_text().split("model: {model: ")[1].split(",")[0])
    target = folder / "plain"
    target.mkdir()
    for path in source.iterdir():
        if path.name.startswith("tokenizer"):
            continue
        os.link(path, target / path.name)
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if not token["content"].startswith("<|coord_")]
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {token: number for token, number in vocabulary.items() if not token.startswith("<|coord_")}
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    (target / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text())
    for name in ("train.yaml", "infer.yaml"):
        path = folder / name
        path.write_text(path.read_text().replace(str(source), str(target)))


DATA_CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing image": (lambda folder: _changed(folder, images=["images/b.png"]), "b.png"),
    "x2 < x1": (lambda folder: _changed(folder, objects=_box(500, 20, 10, 600)), "train.jsonl:2: objects[0].bbox_2d: x2=10 < x1=500"),
    "coordinate token out of range": (lambda folder: _changed(folder, objects=_box(10, 20, 1000, 600)), "train.jsonl:2: objects[0].bbox_2d"),
    "absolute image path": (lambda folder: _changed(folder, images=[str(folder / "images" / "a.png")]), "train.jsonl:2: images[0]"),
    "path that leaves the folder": (lambda folder: _changed(folder, images=["../a.png"]), "train.jsonl:2: images[0]"),
    "checkpoint without coordinate tokens": (_without_coordinate_tokens, "<|coord_0|>"),
}


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = main(arguments)
    return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("case", DATA_CASES, ids=str)
def test_training_on_wrong_data_ends_with_one_sentence_and_writes_nothing(case: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, expected = DATA_CASES[case]
    spoil(workplace)
    code, errors = _run(["train", "--config", str(workplace / "train.yaml")], capsys)
    assert (code, len(errors)) == (2, 1)
    assert expected in errors[0]
    assert not (workplace / "output").exists()


@pytest.mark.parametrize("command", ["train", "infer"])
def test_a_misspelt_key_is_named_with_its_nearest_one(command: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = workplace / f"{command}.yaml"
    right, wrong = {"train": ("max_steps", "max_step"), "infer": ("max_new_tokens", "max_new_token")}[command]
    path.write_text(path.read_text().replace(right, wrong))
    code, errors = _run([command, "--config", str(path)], capsys)
    assert (code, len(errors)) == (2, 1)
    assert wrong in errors[0]
    assert right in errors[0]
    assert not (workplace / "output").exists()


def test_inference_with_a_checkpoint_without_coordinate_tokens_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _without_coordinate_tokens(workplace)
    code, errors = _run(["infer", "--config", str(workplace / "infer.yaml")], capsys)
    assert (code, len(errors)) == (2, 1)
    assert "<|coord_0|>" in errors[0]
    assert not list((workplace / "output").rglob("*.json*"))


@pytest.mark.parametrize("command", ["train", "infer"])
def test_an_output_folder_below_a_file_is_refused_before_any_work(command: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "output").write_text("a file")
    code, errors = _run([command, "--config", str(workplace / f"{command}.yaml")], capsys)
    assert (code, len(errors)) == (2, 1)
    assert str(workplace / "output") in errors[0]
    assert (workplace / "output").read_text() == "a file"


@pytest.fixture
def full_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system without a free block."""
    folder = mount_disk("4k")
    (folder / "filler").write_bytes(b"0" * 4096)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("command", "expected"), [("train", "a checkpoint needs"), ("infer", "no space left on the device")])
def test_a_full_disk_is_refused_before_any_work(command: str, expected: str, workplace: Path, full_disk: Path) -> None:
    path = workplace / f"{command}.yaml"
    path.write_text(path.read_text().replace(str(workplace / "output"), str(full_disk / "output")))
    done = subprocess.run([sys.executable, "-m", "coordexp", command, "--config", str(path)], capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (2, 1)
    assert expected in errors[0]
    assert "free space" in errors[0]
    assert [entry.name for entry in full_disk.rglob("*") if entry.is_file()] == ["filler"]
