"""Which GPUs an inference gives to vLLM."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from coordexp.config.infer import InferSection
from coordexp.models.assets import tiny_checkpoint
from coordexp.recipes.infer_backend import name_gpus, open_backend
from coordexp.types.errors import ConfigError
from coordexp.types.progress import NoProgress


@pytest.mark.parametrize(
    ("place", "count", "visible", "expected"),
    [
        ("cuda:0", 1, None, "0"),
        ("cuda", 2, None, "0,1"),
        ("cuda:1", 2, None, "1,2"),
        ("cuda:0", 1, "5", "5"),
        ("cuda:1", 2, "6, 4,GPU-1f", "4,GPU-1f"),
    ],
    ids=["first", "two", "two from the second on", "the only one that may be seen", "of those that may be seen"],
)
def test_a_server_gets_gpus_of_those_that_this_process_may_see(place: str, count: int, visible: str | None, expected: str) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    num_gpus = 4 if visible is None else visible.count(",") + 1
    assert name_gpus(place, count=count, environment=environment, num_gpus=num_gpus) == expected


def test_a_server_gets_no_gpus_that_are_not_there_or_that_another_process_takes() -> None:
    with pytest.raises(ConfigError, match="2 GPUs from cuda:1 on were asked for, and 2 can be used here"):
        name_gpus("cuda:1", count=2, environment={}, num_gpus=2)
    with pytest.raises(ConfigError, match="a server of 2 GPUs for each process of torchrun"):
        name_gpus("cuda:0", count=2, environment={"WORLD_SIZE": "4"}, num_gpus=8)
    assert name_gpus("cuda:3", count=1, environment={"WORLD_SIZE": "4"}, num_gpus=8) == "3"


def test_vllm_in_this_process_is_refused_another_gpu_than_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    section = InferSection.model_validate(
        {"gt_jsonl": tmp_path / "val.jsonl", "model_checkpoint": str(tiny_checkpoint()), "mode": "coord", "backend": {"type": "vllm", "mode": "local"}}
    )
    with (
        pytest.raises(ConfigError, match="takes the first GPU that it sees, not cuda:1"),
        open_backend(section, device="cuda:1", log=tmp_path / "log", progress=NoProgress()),
    ):
        pass
