"""The installed package, without the clone around it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOW_CONFIGS = "from coordexp.recipes.shipped import shipped_config; print(*[shipped_config(name) for name in ('demo/stage1.yaml', 'infer/pipeline.yaml')])"


@pytest.mark.slow
def test_a_wheel_carries_the_configuration_files_that_its_commands_read(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    installed = tmp_path / "installed"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(installed)

    environment = {**os.environ, "PYTHONPATH": str(installed)}
    shown = subprocess.run([sys.executable, "-c", SHOW_CONFIGS], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout.split()

    assert [Path(path).relative_to(installed) for path in shown] == [Path("coordexp/configs/demo/stage1.yaml"), Path("coordexp/configs/infer/pipeline.yaml")]
    shipped = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(installed / "coordexp") for path in (installed / "coordexp" / "configs").rglob("*.yaml")} == shipped
