"""Image paths cannot leave the folder of their data file."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.data.paths import describe_bad_path, files_below, resolve_image
from coordexp.types.errors import DataError


@pytest.mark.parametrize("path", ["a.png", "images/a.png", "a/../b.png", "./a.png", "..a/b.png", "a b/\u732b.png"])
def test_paths_inside_are_taken(path: str, tmp_path: Path) -> None:
    assert describe_bad_path(path) is None
    assert resolve_image(tmp_path, path) == tmp_path / path


@pytest.mark.parametrize("path", ["", "/a.png", "..", "../a.png", "a/../../b.png", "..\\a.png", "\\\\host\\a.png", "c:/a.png", "a\0.png"])
def test_paths_that_leave_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="write image paths relative to the folder of the data file"):
        resolve_image(tmp_path, path)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "elsewhere"
    (root / "real").mkdir(parents=True)
    outside.mkdir()
    (root / "inside").symlink_to(root / "real")
    (root / "out").symlink_to(outside)
    assert resolve_image(root, "inside/a.png") == root / "inside/a.png"
    with pytest.raises(DataError, match=r"train.jsonl:3: 'out/a.png' is a link to .*elsewhere/a.png', outside.*; copy or hard-link"):
        resolve_image(root, "out/a.png", where="train.jsonl:3")


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve_image(tmp_path / "link", "a.png") == tmp_path / "link" / "a.png"


def test_files_of_all_folders_are_found_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.png", "deep/er/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "in/again").symlink_to(tmp_path / "in", target_is_directory=True)
    assert sorted(str(path.relative_to(tmp_path / "in")) for path in files_below(tmp_path / "in")) == ["a.png", "deep/b.png", "deep/er/c.png"]
    with pytest.raises(DataError, match=r"gone: the folder cannot be read \(No such file or directory\); check its permissions and the path"):
        list(files_below(tmp_path / "gone"))
