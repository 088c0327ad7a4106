"""Real processes that are killed with SIGKILL while they infer: what the last one leaves is, byte for byte, what an undisturbed run leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordexp.cli.main import main
from coordexp.models.assets import tiny_checkpoint
from coordexp.pipeline.result_file import journal_path

from . import forked
from .scenes import write_scenes

pytestmark = pytest.mark.slow

EVAL = ("stages.infer=true", "stages.eval=true", "stages.vis=false", "eval.report=false")
IS_LONG = os.environ.get("COORDEXP_LONG") == "1"
NUM_IMAGES, NUM_KILLS = (500, 50) if IS_LONG else (96, 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), count=NUM_IMAGES)


@pytest.fixture
def write_run(tmp_path: Path, data: Path) -> Callable[..., tuple[Path, Path]]:
    """A pipeline file, and its run's folder."""

    def write(name: str, **infer: Any) -> tuple[Path, Path]:
        section = {"gt_jsonl": str(data), "model_checkpoint": str(tiny_checkpoint()), "mode": "coord", "device": "cpu"}
        section |= {"generation": {"max_new_tokens": 96, "batch_size": 4, "window": 8}, **infer}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"run": {"name": name, "output_dir": str(tmp_path)}, "infer": section}))
        return path, tmp_path / name

    return write


def start(*arguments: str) -> Any:
    return forked.start("infer", *arguments)


def wait_for_answers(process: Any, journal: Path, count: int) -> None:
    """Until this process has added as many lines, or has ended."""
    before = lines_of(journal)
    while process.is_alive() and lines_of(journal) < before + count:
        process.join(0.01)


def lines_of(journal: Path) -> int:
    try:
        return journal.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def result(folder: Path) -> bytes:
    return (folder / "gt_vs_pred.jsonl").read_bytes()


def counts(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name not in {"speed", "shards"}}


def test_a_run_that_is_killed_again_and_again_leaves_the_same_bytes(write_run) -> None:
    straight, expected = write_run("straight")
    assert main(["infer", "--config", str(straight)]) == 0
    path, folder = write_run("killed")
    rng = random.Random(11)
    num_kills = num_resumed = 0
    while num_kills < NUM_KILLS:
        num_resumed += journal_path(folder / "gt_vs_pred.jsonl").exists()
        process = start("--config", str(path), *(["--overwrite"] if (folder / "summary.json").exists() else []))
        if num_kills % 2:  # while answers are written, however slow the machine is
            wait_for_answers(process, journal_path(folder / "gt_vs_pred.jsonl"), rng.randrange(1, 12))
            process.join(rng.uniform(0.0, 0.3))
        else:  # at any moment, the start included
            process.join(rng.uniform(0.05, 4.0 if IS_LONG else 2.5))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            num_kills += 1
        process.join()
        if process.exitcode != 0:  # nothing half-written stands where results are looked for
            assert not (folder / "gt_vs_pred.jsonl").exists() or result(folder) == result(expected)
    last = start("--config", str(path))
    last.join()
    assert last.exitcode == 0
    assert num_resumed >= 3
    assert result(folder) == result(expected)
    assert counts(folder) == counts(expected)
    assert sorted(entry.name for entry in folder.iterdir()) == ["gt_vs_pred.jsonl", "resolved_config.json", "summary.json"]


def test_parts_put_together_are_one_run_also_when_they_were_killed(write_run) -> None:
    straight, expected = write_run("one", limit=30)
    assert main(["infer", "--config", str(straight)]) == 0
    path, folder = write_run("parts", limit=30)
    rng = random.Random(5)
    for shard in ("3/3", "1/3", "2/3"):
        process = start("--config", str(path), "--shard", shard)
        process.join(rng.uniform(0.3, 1.2))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert main(["infer", "--config", str(path), "--shard", shard]) == 0
    assert not (folder / "gt_vs_pred.jsonl").exists()
    assert main(["merge", str(folder)]) == 0
    assert result(folder) == result(expected)
    assert counts(folder) == counts(expected)
    before = (folder / "summary.json").stat().st_mtime_ns
    assert main(["merge", str(folder)]) == 0
    assert main(["infer", "--config", str(path), *EVAL]) == 0  # the whole is known as finished
    assert (folder / "summary.json").stat().st_mtime_ns == before
    assert (folder / "eval" / "metrics.json").is_file()


def test_parts_that_do_not_belong_together_are_refused(write_run, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = write_run("wrong", limit=16)

    def refused() -> str:
        assert main(["merge", str(folder)]) == 2
        return capsys.readouterr().err

    assert "there are no parts" in refused()
    assert main(["infer", "--config", str(path), "--shard", "1/2"]) == 0
    assert "part 2/2 is missing" in refused()
    assert main(["infer", "--config", str(path), "--shard", "2/2", "infer.generation.temperature=0.5"]) == 0
    assert "part 2/2 ran with other settings" in refused()
    assert main(["infer", "--config", str(path), "--shard", "2/2", "--overwrite"]) == 0
    part = folder / "shards" / "1-of-2" / "gt_vs_pred.jsonl"
    content = part.read_text()
    part.write_text(content.replace("0.png", "9.png"))
    assert "the predictions of part 1/2 were changed" in refused()
    part.write_text(content)
    assert main(["merge", str(folder)]) == 0
    assert len(result(folder).splitlines()) == 16
    (part.parent / "summary.json").unlink()
    assert "part 1/2 is not finished" in refused()
    assert main(["infer", "--config", str(path), "--shard", "3/2"]) == 2
    assert "is no part" in capsys.readouterr().err
    assert main(["infer", "--config", str(path), "--shard", "1/3"]) == 0
    assert "part 1/3 has nothing to do: 16 lines are 2 windows of 8; lower infer.generation.window" in capsys.readouterr().err


def test_an_unfinished_run_with_other_settings_is_protected(write_run, capsys: pytest.CaptureFixture[str]) -> None:
    path, folder = write_run("unfinished")
    process = start("--config", str(path))
    journal = journal_path(folder / "gt_vs_pred.jsonl")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    written = journal.read_bytes()
    assert main(["infer", "--config", str(path), "infer.generation.seed=1"]) == 2
    assert "an unfinished run with other settings, data or weights lies here" in capsys.readouterr().err
    assert journal.read_bytes() == written
    assert main(["infer", "--config", str(path), "infer.generation.seed=1", "infer.limit=4", "--overwrite"]) == 0
    assert len(result(folder).splitlines()) == 4


def test_under_torchrun_each_rank_does_a_part_and_the_first_puts_them_together(write_run) -> None:
    straight, expected = write_run("alone", limit=12)
    assert main(["infer", "--config", str(straight)]) == 0
    path, folder = write_run("ranks", limit=12)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "coordexp", "infer", "--config", str(path)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert result(folder) == result(expected)
    assert counts(folder) == counts(expected)
