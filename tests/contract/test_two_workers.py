"""The tests in two processes: one of them starts the server of the run and runs all that share it; what is left out is said by the run, not lost in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import os, pytest

@pytest.fixture(scope="session")
def starting_vllm_server():
    print("starts in", os.environ.get("PYTEST_XDIST_WORKER", "the only one"), file=open("starts", "a"))

@pytest.fixture(scope="session")
def vllm_server(starting_vllm_server):
    pass
"""
PROBE = """
import os, pytest

@pytest.mark.parametrize("number", range(3))
def test_it({argument}number):
    print(os.environ.get("PYTEST_XDIST_WORKER", "the only one"), file=open({name!r}, "a"))

def test_another():
    print(os.environ.get("PYTEST_XDIST_WORKER", "the only one"), file=open({name!r}, "a"))
"""
BROWSER = """
import pytest

@pytest.mark.browser
def test_in_a_browser():
    raise AssertionError
"""


@pytest.fixture
def run(tmp_path: Path):
    """Runs the probes with the settings of the tests; its report."""

    def run(*arguments: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"NO_BROWSER": "1"}
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), *arguments, "tests"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for name in ("conftest.py", "workers.py"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_text((ROOT / "tests" / name).read_text())
    (tmp_path / "tests/e2e").mkdir()
    (tmp_path / "tests/unit").mkdir()
    (tmp_path / "tests/e2e/conftest.py").write_text(SERVER)
    for name in ("e2e/test_a", "e2e/test_d", "unit/test_b", "unit/test_c"):
        (tmp_path / f"tests/{name}.py").write_text(PROBE.format(argument="", name=name[-1]))
    for name in ("test_x", "test_y", "test_z"):
        (tmp_path / f"tests/e2e/{name}.py").write_text(PROBE.format(argument="vllm_server, ", name=name[-1]))
    (tmp_path / "tests/e2e/test_browser.py").write_text(BROWSER)
    return run


def test_the_tests_of_the_server_are_run_by_the_worker_that_starts_it(run, tmp_path: Path) -> None:
    said = run("-n", "2", "--dist", "loadfile", "-q")
    assert "28 passed" in said
    assert (tmp_path / "starts").read_text() == "starts in gw0\n"
    assert [(tmp_path / name).read_text() for name in "xyz"] == ["gw0\n" * 4] * 3
    assert {len(set((tmp_path / name).read_text().split())) for name in "abcd"} == {1}
    assert said.count("NO_BROWSER=1: not run: tests/e2e/test_browser.py::test_in_a_browser") == 1


def test_one_process_runs_the_same_tests(run, tmp_path: Path) -> None:
    said = run("-n", "0")
    assert "28 passed, 1 deselected" in said
    assert (tmp_path / "starts").read_text() == "starts in the only one\n"
    assert said.count("NO_BROWSER=1: not run: tests/e2e/test_browser.py::test_in_a_browser") == 1
