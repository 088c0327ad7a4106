"""Atomic writes: the old file or the new one, never half of one."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from coordexp.types.errors import OutputError
from coordexp.types.files import atomic_folder, atomic_writer, ensure_output_folder, write_text


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
