"""Two processes that would write into the same place: the first goes on as if it were alone, the second is refused with a sentence and changes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordexp.cli.main import main
from coordexp.data.synthetic import SceneSettings, write_coco_dataset
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.stage1 import run_stage1
from coordexp.training.run_log import RunLog

from .forked import start


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """As another process would hold it."""
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_that_still_trains_is_not_resumed_by_a_second_process(
    make_stage1: Any, write_stage1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one starts while the first writes its log, behind its first checkpoint."""
    said, codes, real = tmp_path / "said", list[int](), RunLog.write

    def write(log: RunLog, logs: Any, *, step: int) -> None:
        real(log, logs, step=step)
        if step == 3 and not codes:
            before = _tree(tmp_path / "runs")
            second = start("train", "--config", str(write_stage1(tmp_path)), "training.resume_from_checkpoint=true", said=said)
            second.join()
            codes.append(second.exitcode)
            assert _tree(tmp_path / "runs") == before

    monkeypatch.setattr(RunLog, "write", write)
    run = run_stage1(make_stage1())
    assert codes == [2]
    sentence = f"error: {run}: another training is writing here; wait for its end, or start a new run without training.resume_from_checkpoint"
    assert said.read_text().splitlines()[-1] == sentence
    assert [json.loads(line)["step"] for line in (run / "logging.jsonl").read_text().splitlines() if '"loss"' in line] == [1, 2, 3, 4]
    assert json.loads((run / "run_metadata.json").read_text())["resumes"] == []


def test_new_runs_that_begin_at_once_get_folders_of_their_own(make_stage1: Any) -> None:
    first, second = (run_stage1(make_stage1("training.max_steps=1", "custom.val_jsonl=null")) for _ in range(2))
    assert [folder.parent.name.partition("-")[0] for folder in (first, second)] == ["v0", "v1"]


@pytest.mark.parametrize("command", ["prepare", "rescale", "infer"])
def test_the_second_command_into_a_folder_is_refused_and_the_folder_is_as_it_was(
    command: str, tmp_path: Path, scenes_jsonl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    if command == "prepare":
        write_coco_dataset(SceneSettings(name="train", kind="shapes", seed=1, num_scenes=3, min_objects=1, max_objects=3), tmp_path / "coco")
        splits = f"splits: {{train: {{instances: {tmp_path}/coco/instances_train.json, images: {tmp_path}/coco/images}}}}\n"
        (tmp_path / "prepare.yaml").write_text(f"output: {out}\npreset: rescale_16_36\n{splits}")
        arguments, held = ["data", "prepare", str(tmp_path / "prepare.yaml")], out
    elif command == "rescale":
        source = Path(shutil.copytree(scenes_jsonl.parent, tmp_path / "scenes")) / "val.jsonl"
        arguments, held = ["data", "rescale", str(source), "--into", str(out), "--preset", "rescale_16_16"], out / "rescale_16_16/images/val"
    else:
        files = ["--gt_jsonl", str(scenes_jsonl), "--model_checkpoint", str(tiny_checkpoint()), "--device", "cpu", "--out", str(out / "gt_vs_pred.jsonl")]
        arguments, held = ["infer", *files, "--mode", "coord", "--max_new_tokens", "8"], out / "gt_vs_pred.jsonl.partial"
    assert main(arguments) == 0
    if command == "infer":
        (out / "gt_vs_pred.jsonl").rename(held)
        (out / "summary.json").unlink()
    before = _tree(out)
    with _held(held):
        assert main(arguments) == 2
        assert _tree(out) == before
    said = capsys.readouterr().err
    assert f"error: {held if command != 'infer' else out / 'gt_vs_pred.jsonl'}: another " in said
    assert " is writing here; wait for it" in said
    assert main([*arguments, *(["--overwrite"] if command == "infer" else [])]) == 0


def test_two_evaluations_into_a_folder_leave_the_results_of_one(tmp_path: Path) -> None:
    item = {"type": "bbox_2d", "points": [5, 5, 40, 40], "desc": "cat"}

    def command(number: int, out: str) -> list[str]:
        row = {"image": "a.png", "width": 96, "height": 96, "coord_mode": "pixel", "gt": [item], "pred": [{**item, "score": 0.5}] * number}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
        return ["eval", "--pred_jsonl", str(tmp_path / f"{number}.jsonl"), "--out_dir", str(tmp_path / out), "--label-match", "exact"]

    alone = []
    for number in (1, 2):
        assert main(command(number, f"alone{number}")) == 0
        alone.append(_tree(tmp_path / f"alone{number}"))
    both = [start(*command(number, "together"), said=tmp_path / "said") for number in (1, 2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0], (tmp_path / "said").read_text()
    assert _tree(tmp_path / "together") in alone
