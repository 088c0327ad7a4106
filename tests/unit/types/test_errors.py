"""Errors a user can act on."""

from __future__ import annotations

import pickle

import pytest

from coordexp.types.errors import BackendError, CheckpointError, ConfigError, DataError, OutputError, UserError


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, CheckpointError, OutputError, BackendError])
def test_one_process_can_tell_another(kind: type[UserError]) -> None:
    error = kind("x2=120 < x1=180", where="train.jsonl:412", fix="run 'coordexp data validate'")
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is kind
    assert str(other) == str(error) == "train.jsonl:412: x2=120 < x1=180; run 'coordexp data validate'"
