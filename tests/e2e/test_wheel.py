"""The installed package, without the clone around it. `make dist-check` does the same with pip, on every Python that is there, and trains."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SHOW_CONFIGS = "from coordexp.recipes.shipped import shipped_config; print(*[shipped_config(name) for name in ('demo/stage1.yaml', 'infer/pipeline.yaml')])"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_distribution", ROOT / "tools" / "check_distribution.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool()


@pytest.fixture(scope="module")
def archives(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Wheel and sdist; making them checks that the sdist builds the same wheel."""
    return tool.build(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def installed(tool: ModuleType, archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the wheel and what the wheel's own metadata asks for, with all that these ask for in turn: nothing else can be imported."""
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(archives[0]).extractall(folder)
    for found in tool.core_closure(archives[0]).values():
        for name in {path.parts[0] for path in found.files or () if path.parts[0] not in ("..", "__pycache__")}:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(str(found.locate_file(name))).resolve())
    return folder


def run(installed: Path, *arguments: str | Path, cwd: Path) -> str:
    """`python -S`: the installed folder and the standard library are all that can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-S", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_carries_the_configuration_files_that_its_commands_read(installed: Path, tmp_path: Path) -> None:
    shown = run(installed, "-c", SHOW_CONFIGS, cwd=tmp_path).split()
    assert [Path(path).relative_to(installed) for path in shown] == [Path("coordexp/configs/demo/stage1.yaml"), Path("coordexp/configs/infer/pipeline.yaml")]
    shipped = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {path.relative_to(installed / "coordexp") for path in (installed / "coordexp" / "configs").rglob("*.yaml")} == shipped


@pytest.mark.slow
def test_the_archives_tell_one_version_and_carry_types_licence_and_the_tiny_checkpoint(tool: ModuleType, archives: tuple[Path, Path], installed: Path) -> None:
    facts = tool.inspect(*archives)
    assert run(installed, "-m", "coordexp", "--version", cwd=installed) == f"coordexp {facts['version']}\n"
    assert facts["wheel_bytes"] < 6_000_000  # docs/installation.md says 4.7 MB
    assert (installed / "coordexp" / "py.typed").is_file()
    assert list(installed.glob("coordexp-*.dist-info/licenses/LICENSE"))


@pytest.mark.slow
def test_the_wheel_with_its_core_dependencies_alone_converts_and_evaluates(tool: ModuleType, installed: Path, tmp_path: Path) -> None:
    torch = run(installed, "-c", "import importlib.util as u; print([name for name in ('torch', 'transformers', 'scipy') if u.find_spec(name)])", cwd=tmp_path)
    assert torch == "[]\n"
    program = tmp_path / "coordexp"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{installed}" exec "{sys.executable}" -S -m coordexp "$@"\n')
    program.chmod(0o755)
    made = tool.use_core(tmp_path, tmp_path)
    assert json.loads(made["metrics.json"])["metrics"]["f1_det@0.50"] == pytest.approx(0.9184, abs=1e-4)
    assert made["val.coord.jsonl"].count(b"\n") == 16
