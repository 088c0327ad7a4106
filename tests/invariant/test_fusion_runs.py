"""Training on a mixture of data sets, in whole runs of the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from coordexp.config.loading import Loaded
from coordexp.config.train import TrainConfig
from coordexp.recipes.stage1 import build_trainer, run_stage1
from coordexp.recipes.stage1_parts import prepare_stage1
from coordexp.training.run_folder import list_checkpoints
from coordexp.types.errors import UserError
from coordexp.types.progress import NoProgress

Stage1Maker = Callable[..., Loaded[TrainConfig]]
AUGMENTED = "custom.augmentation={hflip: 0.5, crop: {probability: 0.5}, zoom_out: {probability: 0.5}, colour: {probability: 0.5}}"
PACKED = ("training.packing=true", "training.per_device_train_batch_size=1", "training.effective_batch_size=2", "global_max_length=420")

torch.set_num_threads(1)


@pytest.fixture
def make_fusion(make_stage1: Stage1Maker, boxes_folder: Path, tmp_path: Path) -> Callable[..., Loaded[TrainConfig]]:
    """10 records at ratio 0.5 and 5 records at ratio 1.6: 5 and 8 samples of an epoch."""
    second = tmp_path / "second"
    shutil.copytree(boxes_folder / "images", second / "images")
    shutil.copyfile(boxes_folder / "val.jsonl", second / "train.jsonl")
    first = f"{{name: half, train_jsonl: {boxes_folder}/train.jsonl, val_jsonl: {boxes_folder}/val.jsonl, ratio: 0.5}}"
    more = f"{{name: more, train_jsonl: {second}/train.jsonl, ratio: 1.6, prompt_labels: all, max_objects_per_image: 1, object_ordering: random}}"
    (tmp_path / "fusion.yaml").write_text(f"datasets:\n  - {first}\n  - {more}\n")

    def make(*overrides: str) -> Loaded[TrainConfig]:
        return make_stage1("custom.train_jsonl=null", "custom.val_jsonl=null", f"custom.fusion_config={tmp_path}/fusion.yaml", *overrides)

    return make


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines if "train_runtime" not in line]


@pytest.mark.slow
@pytest.mark.parametrize("packing", [(), PACKED], ids=["padded", "packed"])
def test_steps_hold_the_quota_of_each_data_set_and_name_it(make_fusion: Stage1Maker, tmp_path: Path, packing: tuple[str, ...]) -> None:
    config = make_fusion(*packing).config
    parts = prepare_stage1(config)
    from accelerate import PartialState

    trainer, loader = build_trainer(config, parts, folder=tmp_path / "run", progress=NoProgress(), process=PartialState(cpu=True))
    try:
        packs = [pack for step in range(parts.schedule.steps_per_epoch) for pack in loader.prepare(step)]
    finally:
        loader.close()
    labels = [label for pack in packs for label in pack.extra("dataset_labels", reader="test")]
    names = [name for pack in packs for name in pack.extra("sample_ids", reader="test")]
    assert (labels.count("half"), labels.count("more"), len(labels)) == (5, 8, 13)
    assert len({name for name in names if name.startswith("half/train:")}) == 5
    assert {name for name in names if name.startswith("more/")} == {f"more/train:{line}" for line in range(1, 6)}
    assert trainer.model is not None
    # never more than one object of a record with the limit
    counts = {name: len(parts.train.encode(index, epoch=0).slots) for index, name in enumerate(record.id for record in parts.train.records)}
    assert max(count for name, count in counts.items() if name.startswith("more/")) == 1
    assert max(counts.values()) == 3


@pytest.mark.slow
def test_the_metadata_says_what_was_mixed(make_fusion: Stage1Maker) -> None:
    run = run_stage1(make_fusion("training.max_steps=1", "training.eval_strategy=epoch", "training.save_strategy=no"))
    metadata = json.loads((run / "run_metadata.json").read_text())
    train = metadata["data"]["train"]
    assert (train["records"], train["samples_per_epoch"]) == (15, 13)
    assert [(item["name"], item["records"], item["samples_per_epoch"], item["ratio"]) for item in train["datasets"]] == [
        ("half", 10, 5, 0.5),
        ("more", 5, 8, 1.6),
    ]
    assert "square" in train["datasets"][1]["prompt"]["user"]
    assert "square" not in train["datasets"][0]["prompt"]["user"]
    assert metadata["data"]["val"]["records"] == 5
    assert any(item["path"].endswith("fusion.yaml") for item in metadata["config_files"])


@pytest.mark.slow
def test_resuming_at_every_step_equals_the_straight_run_with_packing_and_augmentation(make_fusion: Stage1Maker, tmp_path: Path) -> None:
    settings = (*PACKED, AUGMENTED, "training.max_steps=6", "training.save_steps=1", "custom.object_ordering=random")
    straight = run_stage1(make_fusion(*settings))
    expected, weights = events(straight), load_file(straight / "final" / "model.safetensors")
    for checkpoint in list_checkpoints(straight)[:-1]:
        step = int(checkpoint.name.split("-")[1])
        elsewhere = shutil.copytree(checkpoint, tmp_path / "moved" / checkpoint.name)
        resumed = run_stage1(make_fusion(*settings, f"training.resume_from_checkpoint={elsewhere}"))
        assert events(resumed) == expected[step:]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(resumed / "final" / "model.safetensors").items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("datasets: [{name: a, train_jsonl: nothing.jsonl}]", "nothing.jsonl: the data file does not exist", id="file"),
        pytest.param(
            "datasets: [{name: a, train_jsonl: DATA, val_jsonl: DATA, ratio: 0.01}]", "an epoch of this mixture holds no sample; raise a ratio", id="empty"
        ),
        pytest.param("datasets: [{name: a, train_jsonl: DATA, rato: 1}]", r"broken\.yaml:1: datasets\[0\]\.rato: unknown key", id="typo"),
        pytest.param("datasets: [{name: a, train_jsonl: DATA}]", "no data set has a val_jsonl", id="val"),
    ],
)
def test_a_mixture_that_cannot_be_used_is_one_sentence(make_fusion: Stage1Maker, boxes_folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "broken.yaml").write_text(text.replace("DATA", f"{boxes_folder}/train.jsonl"))
    with pytest.raises(UserError, match=message):
        run_stage1(make_fusion(f"custom.fusion_config={tmp_path}/broken.yaml", "training.eval_strategy=epoch"))
    assert not (tmp_path / "runs").exists()
