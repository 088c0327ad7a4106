"""The torch-free core stays torch-free, module by module, in a fresh interpreter."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import coordexp

TORCH_FREE_ROOMS = ["types", "config", "geometry", "metrics", "codec", "matching", "data", "targets", "evaluation", "rollout", "viz"]
HEAVY = ["torch", "transformers", "accelerate", "peft", "vllm"]


def _heavy_modules_after(statement: str) -> str:
    code = f"{statement}\nimport sys; print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _modules_of(room: str) -> list[str]:
    folder = Path(coordexp.__file__).parent / room
    return [f"coordexp.{room}", *(info.name for info in pkgutil.walk_packages([str(folder)], prefix=f"coordexp.{room}."))]


@pytest.mark.parametrize("room", TORCH_FREE_ROOMS)
def test_importing_every_module_of_a_torch_free_room_loads_no_torch(room: str) -> None:
    assert _heavy_modules_after("import " + ", ".join(_modules_of(room))) == ""


def test_codec_geometry_and_evaluation_load_no_torch() -> None:
    assert _heavy_modules_after("import coordexp.codec, coordexp.geometry, coordexp.evaluation") == ""


def test_the_check_itself_sees_torch_when_it_is_loaded() -> None:
    assert "torch" in _heavy_modules_after("import coordexp.losses.coordinates").split()
