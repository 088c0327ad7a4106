"""Every command that writes, on a disk that is read-only, and on one that fills up while it works: one sentence, exit code 2, what was there stays."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from coordexp.cli.main import main
from coordexp.data.synthetic import SceneSettings, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint

from .scenes import write_scenes

pytestmark = pytest.mark.slow
TINY = str(tiny_checkpoint())
INFER = ["--model_checkpoint", TINY, "--mode", "coord", "--device", "cpu", "--max_new_tokens", "32"]
COMMANDS = {
    "import": ["data", "import", "coco", "{data}/coco/instances_train.json", "--images", "{data}/coco/images", "--output", "{disk}/out/train.jsonl"],
    "rescale": ["data", "rescale", "{data}/val.jsonl", "--into", "{disk}/out", "--preset", "rescale_32_64"],
    "prepare": ["data", "prepare", "{data}/prepare.yaml", "output={disk}/out"],
    "export yolo": ["data", "export", "yolo", "train={data}/val.jsonl", "--output", "{disk}/out"],
    "export coco": ["data", "export", "coco", "{data}/val.jsonl", "--output", "{disk}/out/val.json"],
    "stats": ["data", "stats", "{data}/val.jsonl", "--output", "{disk}/out/stats.html"],
    "doctor": ["doctor", "data", "{data}/val.jsonl", "--model", TINY, "--output", "{disk}/out/doctor.html"],
    "expand-vocab": ["model", "expand-vocab", "--src", "{data}/plain", "--dst", "{disk}/out/wide"],
    "train": ["train", "--config", "{data}/train.yaml", "training.output_dir={disk}/out"],
    "infer": ["infer", "--gt_jsonl", "{data}/val.jsonl", *INFER, "--out", "{disk}/out/gt_vs_pred.jsonl"],
    "predict": ["predict", "{data}/0.png", "--model", TINY, "--out", "{disk}/out/found.jsonl"],
    "eval": ["eval", "--pred_jsonl", "{data}/gt_vs_pred.jsonl", "--out_dir", "{disk}/out", "--overlay", "--label-match", "exact"],
    "compare": ["eval", "compare", "{data}/gt_vs_pred.jsonl", "{data}/after/gt_vs_pred.jsonl", "--out_dir", "{disk}/out"],
    "report": ["report", "{data}", "--output", "{disk}/out/report.html"],
    "vis": ["vis", "--pred_jsonl", "{data}/gt_vs_pred.jsonl", "--save_dir", "{disk}/out"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from coordexp.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("data")
    scenes = write_scenes(folder, count=12)
    write_coco_dataset(SceneSettings(name="train", kind="shapes", seed=1, num_scenes=8, min_objects=1, max_objects=4), folder / "coco")
    splits = {"train": {"instances": str(folder / "coco/instances_train.json"), "images": str(folder / "coco/images")}}
    (folder / "prepare.yaml").write_text(yaml.safe_dump({"preset": "rescale_32_64", "splits": splits}))
    training = {"output_dir": "-", "run_name": "r", "learning_rate": 1e-3, "max_steps": 1, "use_cpu": True, "per_device_train_batch_size": 1}
    document = {"model": {"model": TINY, "torch_dtype": "float32"}, "training": training, "custom": {"train_jsonl": str(scenes), "train_sample_limit": 4}}
    (folder / "train.yaml").write_text(yaml.safe_dump(document))
    item = {"type": "bbox_2d", "points": [5, 5, 60, 60], "desc": "cat"}
    for part, desc in ((folder, "dog"), (folder / "after", "cat")):
        part.mkdir(exist_ok=True)
        rows = [
            {"image": f"{number}.png", "width": 96, "height": 96, "coord_mode": "pixel", "gt": [item], "pred": [{**item, "desc": desc}]} for number in range(12)
        ]
        (part / "gt_vs_pred.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_tiny(folder / "plain", seed=0, with_coord_tokens=False)
    return folder


def _run(command: str, data: Path, disk: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main([part.replace("{data}", str(data)).replace("{disk}", str(disk)) for part in COMMANDS[command]])
    return code, capfd.readouterr().err


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_read_only_disk_is_one_sentence(command: str, data: Path, mount_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    disk = mount_disk("64m")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, said = _run(command, data, disk, capfd)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), said
    assert "read-only" in errors[0]
    assert str(disk) in errors[0]
    assert "Traceback" not in said
    assert list(disk.iterdir()) == []


FULL = [(name, "24k") for name in COMMANDS if name not in ("train", "infer", "export coco", "predict")] + [("expand-vocab", "1m")]
"""With what the disk holds; the small files of the four fit, and three more have tests of their own."""


@pytest.mark.parametrize(("command", "size"), FULL, ids=[f"{command} {size}" for command, size in FULL])
def test_a_disk_that_fills_up_is_one_sentence_and_what_was_there_stays(
    command: str, size: str, data: Path, mount_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    disk = mount_disk(size)
    (disk / "mine").write_text("mine")
    code, said = _run(command, data, disk, capfd)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), said
    assert "no space left on the device" in errors[0]
    assert "Traceback" not in said
    assert (disk / "mine").read_text() == "mine"
    assert not [path for path in disk.rglob("*") if path.name.endswith((".part", ".made"))]
    assert not [path for path in disk.rglob("*") if path.suffix in (".html", ".jsonl", ".csv")]
