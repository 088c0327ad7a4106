"""Atomic writes: the old file or the new one, never half of one."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordexp.types.errors import OutputError
from coordexp.types.files import atomic_folder, atomic_writer, ensure_output_folder, replace_owned, write_text


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), atomic_writer(target) as stream:
        stream.write("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_a_failed_folder_keeps_the_old_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "eval"
    with atomic_folder(target) as folder:
        (folder / "a.json").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "b.json").write_text("2")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["a.json"]
    assert os.listdir(tmp_path) == ["eval"]


def test_a_new_folder_replaces_every_file_of_the_old_one(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        with atomic_folder(tmp_path / "eval") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["b.json"]


HOLD = """
import sys, time
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
from coordexp.types.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half.json").write_text("1")
    print("inside", flush=True)
    time.sleep(600)
"""


def _write_folder(target: Path, name: str) -> None:
    with atomic_folder(target) as folder:
        (folder / name).write_text("")


def test_what_a_killed_process_left_goes_with_the_next_write_and_what_is_in_use_stays(tmp_path: Path) -> None:
    target = tmp_path / "eval"
    _write_folder(target, "old.json")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        _write_folder(target, "new.json")
        (in_use,) = tmp_path.glob(".eval.*.part")
        assert (in_use / "new" / "half.json").exists()
        process.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    _write_folder(target, "newest.json")
    assert [path.name for path in tmp_path.rglob("*")] == ["eval", "newest.json"]


def _replace(folder: Path, *names: str) -> None:
    with replace_owned(folder, is_owned=lambda name: name.endswith(".json")) as new:
        for name in names:
            (new / name).write_text("new")


def test_the_folder_somebody_stands_in_stays_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("old")
    monkeypatch.chdir(tmp_path)
    number = tmp_path.stat().st_ino
    _replace(Path(), "b.json")
    assert (os.listdir(tmp_path), tmp_path.stat().st_ino) == (["b.json"], number)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "eval").symlink_to("disk")
    _replace(tmp_path / "eval", "a.json")
    assert (tmp_path / "eval").is_symlink()
    assert os.listdir(tmp_path / "disk") == ["a.json"]


def test_files_of_others_stay_and_own_ones_are_replaced(tmp_path: Path) -> None:
    for name in ("old.json", "notes.txt"):
        (tmp_path / name).write_text("old")
    _replace(tmp_path, "new.json")
    assert sorted(os.listdir(tmp_path)) == ["new.json", "notes.txt"]


def test_a_folder_below_a_file_is_refused_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file, not a folder; free space or choose another output folder"):
        ensure_output_folder(tmp_path / "file" / "run")


def test_the_proof_that_a_folder_can_be_written_leaves_no_file(tmp_path: Path) -> None:
    assert list(ensure_output_folder(tmp_path / "a" / "b").iterdir()) == []


def test_a_write_that_the_system_cuts_short_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from coordexp.types.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(Path(sys.argv[1]), 'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "big.txt")], capture_output=True, text=True, check=False)
    assert "OutputError: " in done.stderr
    assert "larger than allowed" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder, not a file; name a file in it"):
        write_text(tmp_path, "text")
    assert list(tmp_path.parent.glob("*.part")) == []


def test_folders_that_are_replaced_by_many_at_once_are_always_one_of_theirs(tmp_path: Path) -> None:
    def replace_it(number: int) -> None:
        for _ in range(50):
            with atomic_folder(tmp_path / "out") as folder:
                (folder / "who").write_text(str(number))
                (folder / "again").write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(replace_it, range(4)))
    assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_writer_left_goes_with_the_next_one_and_what_another_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    (tmp_path / ".train.jsonl.a1b2.part").write_text("half")
    (tmp_path / ".train.jsonl.c3d4.part").mkdir()
    (tmp_path / ".val.jsonl.a1b2.part").write_text("of another file")
    with atomic_writer(target) as first:
        first.write("first")
        write_text(target, "second")
        assert len([path for path in tmp_path.iterdir() if path.name.startswith(".train.jsonl.")]) == 1
    assert target.read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == [".val.jsonl.a1b2.part", "train.jsonl"]
