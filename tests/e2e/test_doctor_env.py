"""`coordexp doctor env` on this machine, and with packages beside it that do not belong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def examine(tmp_path: Path):
    def run(**packages: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Exit code and facts by name; `packages` are found before the installed ones, by their metadata."""
        for name, version in packages.items():
            folder = tmp_path / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "coordexp", "doctor", "env", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
        return done.returncode, {fact["what"]: fact for fact in json.loads(done.stdout)}

    return run


def test_this_machine_is_described(examine) -> None:
    code, facts = examine()
    assert code in (0, 3)  # a small disk or /dev/shm is worth a warning
    assert {"python", "coordexp", "core packages", "extra train", "torch", "vllm", "threads", "memory", "disk", "shared memory"} <= set(facts)
    assert facts["core packages"]["level"] == facts["torch"]["level"] == facts["vllm"]["level"] == "ok"
    assert "numpy" in facts["core packages"]["detail"]


def test_what_does_not_belong_is_an_error_with_its_fix(examine) -> None:
    code, facts = examine(torchvision="0.20.1", pydantic="1.10.0")
    assert code == 2
    assert "0.20.1 belongs to torch 2.5, and torch is 2." in facts["torchvision"]["detail"]
    assert "uninstall torchvision" in facts["torchvision"]["fix"]
    assert facts["core packages"]["level"] == "error"
    assert "pydantic 1.10.0 (needs" in facts["core packages"]["detail"]
