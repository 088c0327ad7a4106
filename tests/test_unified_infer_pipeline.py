"""Regression anchor of the inference pipeline: infer → eval → vis through the real command with the shipped tiny checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from coordexp.cli.main import main
from coordexp.config.loading import load_config
from coordexp.config.prepare import PrepareConfig
from coordexp.data.synthetic import SceneSettings, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.prepare import run_prepare

NUM_SCENES = 6


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file over a few prepared scenes; all three stages on."""
    folder = tmp_path_factory.mktemp("unified")
    write_coco_dataset(SceneSettings(name="anchor", kind="shapes", seed=5, num_scenes=NUM_SCENES), folder / "coco")
    overrides = [
        f"output={folder / 'data'}",
        "preset=rescale_16_36",
        f"splits.val.instances={folder / 'coco' / 'instances_anchor.json'}",
        f"splits.val.images={folder / 'coco' / 'images'}",
    ]
    (prepared,) = run_prepare(load_config(None, PrepareConfig, overrides))
    path = folder / "run.yaml"
    path.write_text(
        f"run: {{name: anchor, output_dir: {folder / 'bench'}}}\n"
        "stages: {infer: true, eval: true, vis: true}\n"
        f"infer: {{gt_jsonl: {prepared.path}, model_checkpoint: {tiny_checkpoint()}, mode: auto, device: cpu,"
        " generation: {seed: 42, batch_size: 4, max_new_tokens: 200}}\n"
        "vis: {limit: 2}\n"
    )
    assert main(["infer", "--config", str(path)]) == 0
    return path


def _folder(run_file: Path) -> Path:
    return run_file.parent / "bench" / "anchor"


def test_every_stage_leaves_its_artifacts(run_file: Path) -> None:
    left = {str(path.relative_to(_folder(run_file))) for path in _folder(run_file).rglob("*") if path.is_file()}
    assert {"gt_vs_pred.jsonl", "summary.json", "resolved_config.json", "eval/metrics.json", "vis/vis_0000.png", "vis/vis_0001.png"} <= left


def test_each_record_has_one_line_in_input_order_with_the_promised_keys(run_file: Path) -> None:
    lines = [json.loads(line) for line in (_folder(run_file) / "gt_vs_pred.jsonl").read_text().splitlines()]
    assert [Path(line["image"]).stem for line in lines] == [f"{index:06d}" for index in range(NUM_SCENES)]
    for line in lines:
        assert {"image", "width", "height", "mode", "coord_mode", "gt", "pred", "raw_output", "errors"} <= line.keys()
        assert (line["mode"], line["errors"]) == ("coord", [])
        assert all({"type", "points", "points_exact", "desc", "score", "score_parts"} <= item.keys() for item in line["pred"])


def test_the_summary_adds_up_and_the_manifest_has_its_schema_version(run_file: Path) -> None:
    summary = json.loads((_folder(run_file) / "summary.json").read_text())
    manifest = json.loads((_folder(run_file) / "resolved_config.json").read_text())
    assert (summary["total_read"], summary["total_emitted"]) == (NUM_SCENES, NUM_SCENES)
    assert (manifest["schema_version"], manifest["root_image_dir_source"]) == (1, "gt_parent")


def test_the_shipped_checkpoint_finds_most_shapes(run_file: Path) -> None:
    assert json.loads((_folder(run_file) / "eval" / "metrics.json").read_text())["metrics"]["f1_det@0.50"] > 0.7


def test_the_same_configuration_and_seed_give_the_same_bytes(run_file: Path) -> None:
    path = _folder(run_file) / "gt_vs_pred.jsonl"
    first = path.read_bytes()
    shutil.rmtree(_folder(run_file))
    assert main(["infer", "--config", str(run_file)]) == 0
    assert path.read_bytes() == first
