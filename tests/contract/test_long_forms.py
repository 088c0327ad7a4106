"""`make test-full` is more than `make test`: the variable that it sets reaches the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
from hypothesis import given, settings, strategies as st

def test_count(long_count):
    print(f"loop {long_count(3, 7)}, examples {settings().max_examples}")

@given(st.integers())
def test_property(value):
    pass

def test_without_a_long_form():
    raise AssertionError
"""


@pytest.mark.parametrize(("variable", "expected"), [("0", "loop 3, examples 100"), ("1", "loop 7, examples 2000")], ids=["short", "long"])
def test_the_form_decides_the_counts_and_the_marker_selects_what_has_one(tmp_path: Path, variable: str, expected: str) -> None:
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "workers.py"):
        (tmp_path / "tests" / name).write_text((ROOT / "tests" / name).read_text())
    (tmp_path / "tests" / "test_probe.py").write_text(PROBE)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-m", "long", "-s", "-q", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COORDEXP_LONG": variable}, cwd=tmp_path, check=False)
    assert expected in result.stdout
    assert "2 passed, 1 deselected" in result.stdout


def test_make_test_full_asks_for_the_long_form() -> None:
    result = subprocess.run(["make", "--dry-run", "--assume-old=.venv/.ready", "test-full"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "COORDEXP_LONG=1 bash tools/run_tests.sh" in result.stdout
