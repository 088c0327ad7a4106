"""How a constraint reaches vLLM: by JSON in the request, and by an argument of the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.generation.constrained_requests import PROBE, PROCESSOR, ConstraintRequest
from coordexp.generation.server_process import ServerOptions, build_command, build_environment
from coordexp.types.constraint import ConstraintSpec
from coordexp.types.rollouts import GenerationSettings, RepeatLimits


@pytest.mark.parametrize("repeat", [None, RepeatLimits(ngram_size=8, max_object_keys=3)], ids=["no guard", "guard"])
def test_a_constraint_and_its_loop_guard_go_through_json(repeat: RepeatLimits | None) -> None:
    request = ConstraintRequest.of(GenerationSettings(8, repeat=repeat, constraint=ConstraintSpec(labels=("cat",), max_objects=4)))
    assert request is not None
    assert ConstraintRequest.read(json.loads(json.dumps(request.as_extra_args()))) == request


def test_without_a_constraint_nothing_is_sent_or_read() -> None:
    assert ConstraintRequest.of(GenerationSettings(8)) is None
    assert ConstraintRequest.read(None) is ConstraintRequest.read({"other": 1}) is None


def test_what_cannot_be_read_names_its_key() -> None:
    with pytest.raises(ValueError, match="coordexp_constraint cannot be read"):
        ConstraintRequest.read(PROBE)


@pytest.mark.parametrize("constrained", [True, False])
def test_a_server_is_started_with_the_processor_when_it_is_asked_for(constrained: bool) -> None:
    options = ServerOptions(model=Path("m"), port=1, constrained=constrained)
    command = build_command(Path("python"), options)
    assert (PROCESSOR in command, build_environment(options).get("VLLM_USE_V2_MODEL_RUNNER")) == (constrained, "0" if constrained else None)
    assert not constrained or command[command.index(PROCESSOR) - 1] == "--logits-processors"
