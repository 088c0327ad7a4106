"""vLLM in the process that asks, compared with transformers in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coordexp.generation.engine import find_python
from coordexp.generation.engine_options import EngineOptions
from coordexp.generation.hf import HfBackend
from coordexp.generation.vllm_engine import VllmEngineBackend
from coordexp.generation.vllm_requests import ModelFacts
from coordexp.models.assets import tiny_checkpoint
from coordexp.models.load import load_model
from coordexp.types.errors import BackendError

from .engine_answers import GUARDED, SETTINGS, as_rows, make_requests

pytestmark = pytest.mark.slow


def test_an_engine_in_the_process_answers_as_transformers_does(tmp_path: Path) -> None:
    loaded = load_model(tiny_checkpoint(), dtype="float32")
    hf, requests = HfBackend(loaded), make_requests(loaded)

    script = Path(__file__).with_name("engine_answers.py")
    done = subprocess.run([str(find_python()), str(script), str(tmp_path / "answers.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "answers.json").read_text())

    assert found["greedy"] == as_rows(hf.generate(requests, SETTINGS))
    assert len({text for *_, text in found["greedy"]}) > 5
    assert found["guarded"] == as_rows(hf.generate(requests, GUARDED))
    assert "repeat" in {reason for _, _, reason, _ in found["guarded"]}
    assert found["sampled"] == found["reordered"] != found["greedy"]
    assert found["info"] == ["vllm", "float32", "cpu"]
    assert done.stdout == ""


def test_without_vllm_one_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    loaded = load_model(tiny_checkpoint())
    with pytest.raises(BackendError, match=r"vLLM cannot be imported here \(.*\); .*make vllm-cpu.*\.vllm-cpu/bin/python -m coordexp"):
        VllmEngineBackend(EngineOptions(model=tiny_checkpoint()), facts=ModelFacts.of(loaded), tokenizer=loaded.tokenizer)  # pyright: ignore[reportArgumentType]
