from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from coordexp.semantics.cache import CachedEncoder, EmbeddingFiles, cache_folder
from coordexp.semantics.protocol import TextEncoder, Vectors

PROCESS = """
import sys, zlib
from pathlib import Path
import numpy as np
from coordexp.semantics.cache import CachedEncoder

class Checksums:
    name = "checksums@1"
    def encode(self, texts):
        return np.array([[zlib.crc32(text.encode()) % 1000, len(text)] for text in texts], dtype=np.float32).reshape(-1, 2)

folder, number = Path(sys.argv[1]), int(sys.argv[2])
for round in range(25):
    texts = [f"own {number} {round}", f"shared {round}"]
    encoder = CachedEncoder(Checksums(), folder=folder)
    assert np.array_equal(encoder.encode(texts), Checksums().encode(texts))
    assert encoder.num_failures == 0
"""


class Lengths:
    """Encodes a text as (its length, 1) and remembers what it was asked for."""

    def __init__(self, name: str = "lengths@1") -> None:
        self.name = name
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += texts
        return np.array([[len(text), 1] for text in texts], dtype=np.float32).reshape(-1, 2)


def test_a_text_is_encoded_once_over_all_runs(tmp_path: Path) -> None:
    first, second = Lengths(), Lengths()
    vectors = CachedEncoder(first, folder=tmp_path).encode(["cat", "zebra", "cat"])
    again = CachedEncoder(second, folder=tmp_path).encode(["zebra", "horse", "cat"])
    assert vectors.tolist() == [[3, 1], [5, 1], [3, 1]]
    assert again.tolist() == [[5, 1], [5, 1], [3, 1]]
    assert (first.asked, second.asked) == (["cat", "zebra"], ["horse"])


def test_the_real_encoder_gives_the_same_from_the_cache(tmp_path: Path, encoder: TextEncoder) -> None:
    texts = ["stop sign", "straße", "羊 🐑", "cat \ud800"]
    fresh = CachedEncoder(encoder, folder=tmp_path).encode(texts)
    cached = CachedEncoder(encoder, folder=tmp_path)
    assert np.array_equal(cached.encode(texts), fresh)
    assert cached.num_encoded == 0


def test_encoders_do_not_see_each_others_vectors(tmp_path: Path) -> None:
    CachedEncoder(Lengths("lengths@1"), folder=tmp_path).encode(["cat"])
    other = Lengths("lengths@2")
    CachedEncoder(other, folder=tmp_path).encode(["cat"])
    assert other.asked == ["cat"]


def test_no_text_makes_no_rows_and_no_file(tmp_path: Path) -> None:
    assert CachedEncoder(Lengths(), folder=tmp_path).encode([]).shape == (0, 2)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-W", "error", "-c", PROCESS, str(tmp_path), str(number)]) for number in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    texts = set(EmbeddingFiles(tmp_path / "embeddings", "checksums@1").read())
    assert texts == {f"own {number} {round}" for number in range(2) for round in range(25)} | {f"shared {round}" for round in range(25)}
    assert not list(tmp_path.rglob("*.part"))


def test_many_small_files_become_one(tmp_path: Path) -> None:
    for number in range(40):
        CachedEncoder(Lengths(), folder=tmp_path).encode([f"text {number}"])
    assert len(list(tmp_path.rglob("*.npz"))) < 16
    assert len(EmbeddingFiles(tmp_path / "embeddings", "lengths@1").read()) == 40


def test_the_oldest_are_removed_beyond_the_bound(tmp_path: Path) -> None:
    for number in range(12):
        CachedEncoder(Lengths(f"lengths@{number}"), folder=tmp_path, max_bytes=3000).encode(["cat"])
    assert 0 < sum(path.stat().st_size for path in tmp_path.rglob("*.npz")) <= 3000
    newest = Lengths("lengths@11")
    CachedEncoder(newest, folder=tmp_path).encode(["cat"])
    assert newest.asked == []


def test_a_very_long_text_is_encoded_but_not_kept(tmp_path: Path) -> None:
    assert CachedEncoder(Lengths(), folder=tmp_path).encode(["x" * 5000]).tolist() == [[5000, 1]]
    assert not list(tmp_path.rglob("*.npz"))


def test_a_cache_that_cannot_be_written_warns_once_and_is_counted(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    encoder = CachedEncoder(Lengths(), folder=blocked)
    with pytest.warns(UserWarning, match="text embeddings cannot be kept in .*; they are computed again next time"):
        assert encoder.encode(["cat"]).tolist() == [[3, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.encode(["zebra"]).tolist() == [[5, 1]]
    assert encoder.num_failures == 2


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut"])
def test_a_broken_file_is_removed_and_its_texts_are_encoded_again(tmp_path: Path, content: bytes) -> None:
    CachedEncoder(Lengths(), folder=tmp_path).encode(["cat"])
    (broken,) = tmp_path.rglob("*.npz")
    broken.write_bytes(content)
    encoder = CachedEncoder(Lengths(), folder=tmp_path)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert encoder.encode(["cat"]).tolist() == [[3, 1]]
    assert (encoder.num_encoded, encoder.num_failures, broken.exists()) == (1, 1, False)


def test_what_a_killed_process_left_is_swept_after_an_hour(tmp_path: Path) -> None:
    CachedEncoder(Lengths(), folder=tmp_path).encode(["cat"])
    folder = next(tmp_path.rglob("*.npz")).parent
    old, young = folder / "old.part", folder / "young.part"
    old.touch()
    young.touch()
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    CachedEncoder(Lengths(), folder=tmp_path).encode(["dog"])
    assert (old.exists(), young.exists()) == (False, True)


def test_the_environment_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COORDEXP_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    CachedEncoder(Lengths()).encode(["cat"])
    assert list((tmp_path / "own" / "embeddings").rglob("*.npz"))


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        pytest.param("linux", None, ".cache/coordexp", id="linux"),
        pytest.param("linux", "elsewhere", "elsewhere/coordexp", id="linux_with_its_own_setting"),
        pytest.param("darwin", None, "Library/Caches/coordexp", id="macos"),
    ],
)
def test_without_it_the_users_cache_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, xdg: str | None, expected: str) -> None:
    monkeypatch.delenv("COORDEXP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / xdg) if xdg else "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder() == tmp_path / expected


def test_without_a_home_nothing_is_kept_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COORDEXP_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CachedEncoder(Lengths()).encode(["cat"]).tolist() == [[3, 1]]


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
