from __future__ import annotations

import json
import threading
from datetime import datetime
from pathlib import Path

import pytest

from coordexp.models.disk import DiskErrors
from coordexp.training.checkpoints import check_free_space, link_model
from coordexp.training.run_folder import (
    check_resume_checkpoint,
    create_run_folder,
    find_resume_checkpoint,
    list_checkpoints,
    read_step,
    run_of,
)
from coordexp.types.errors import CheckpointError, ConfigError, OutputError


def write_checkpoint(run: Path, step: int, *, without: str | None = None) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "config.json"):
        (folder / name).write_bytes(b"x")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if without:
        (folder / without).unlink()
    return folder


def test_run_folders_count_up(tmp_path: Path) -> None:
    now = datetime(2024, 5, 6, 7, 8, 9)
    names = [create_run_folder(tmp_path, "run", now=now).relative_to(tmp_path).as_posix() for _ in range(2)]
    assert names == ["v0-20240506-070809/run", "v1-20240506-070809/run"]


def test_runs_that_start_at_once_get_different_numbers(tmp_path: Path) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(create_run_folder(tmp_path, "run"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder.parent.name.split("-")[0] for folder in folders) == [f"v{n}" for n in range(8)]


@pytest.mark.parametrize("name", ["a/b", "..", " "])
def test_a_run_name_is_a_folder_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.run_name"):
        create_run_folder(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_the_newest_complete_checkpoint_of_the_newest_run_is_found(tmp_path: Path) -> None:
    old, new, other = (create_run_folder(tmp_path, name) for name in ("run", "run", "other"))
    for run, step in ((old, 90), (new, 2), (new, 10), (other, 50)):
        write_checkpoint(run, step)
    write_checkpoint(new, 12, without="trainer_state.json")
    assert find_resume_checkpoint(tmp_path, "run") == new / "checkpoint-10"
    assert [read_step(path) for path in list_checkpoints(new)] == [2, 10]


def test_nothing_to_resume_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run 'run' with a complete checkpoint"):
        find_resume_checkpoint(tmp_path, "run")


@pytest.mark.parametrize("missing", ["optimizer.pt", "rng_state.pth", "model.safetensors", "trainer_state.json"])
def test_an_incomplete_checkpoint_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(CheckpointError, match="not a complete training checkpoint"):
        check_resume_checkpoint(write_checkpoint(tmp_path, 3, without=missing))


def test_a_checkpoint_knows_its_run_only_inside_it(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "run", 3)
    assert run_of(checkpoint) is None
    (tmp_path / "run" / "run_metadata.json").write_text("{}")
    assert run_of(checkpoint) == (tmp_path / "run").resolve()


def test_the_final_model_has_no_training_state_and_costs_no_space(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, 3)
    final = link_model(checkpoint, tmp_path / "final")
    assert sorted(file.name for file in final.iterdir()) == ["config.json", "model.safetensors"]
    assert (final / "model.safetensors").samefile(checkpoint / "model.safetensors")
    assert not (final / "config.json").samefile(checkpoint / "config.json")


def test_a_checkpoint_that_cannot_fit_is_refused_early(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a checkpoint needs 1000000000\.00 GB"):
        check_free_space(tmp_path / "not" / "there", 10**18)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), DiskErrors(tmp_path):
        raise RuntimeError("shape mismatch")
