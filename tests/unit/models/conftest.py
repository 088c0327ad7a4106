"""One untrained tiny checkpoint for all tests of the room."""

from pathlib import Path

import pytest
import torch

from coordexp.models.tiny import build_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny") / "untrained", seed=0)
