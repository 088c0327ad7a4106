from __future__ import annotations

import json
import math
from typing import Any

import pytest

from coordexp.metrics.payload import MetricPayload, PayloadError, parse_line, parse_payload

PAYLOAD = MetricPayload(mode="train", global_step=20, metrics={"loss": 2.5, "base_ce/noncoord_tokens": 31})


def test_a_payload_survives_json() -> None:
    assert parse_payload(json.loads(json.dumps(PAYLOAD.to_json()))) == PAYLOAD


def test_a_line_is_flat_and_survives() -> None:
    line = PAYLOAD.to_line(time="2024-01-01T00:00:00+00:00")
    fields = json.loads(line)
    assert (fields["schema_version"], fields["mode"], fields["step"], fields["loss"]) == (1, "train", 20, 2.5)
    assert parse_line(line) == PAYLOAD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"mode": "test"}, "mode is 'test'", id="mode"),
        pytest.param({"global_step": -1}, "global_step is -1", id="negative-step"),
        pytest.param({"global_step": 1.5}, "global_step is 1.5", id="float-step"),
        pytest.param({"metrics": [1]}, "not a mapping", id="metrics-list"),
        pytest.param({"metrics": {"loss": math.nan}}, "not a finite number", id="nan"),
        pytest.param({"metrics": {"loss": "2"}}, "not a finite number", id="text-value"),
        pytest.param({"metrics": {"loss": True}}, "not a finite number", id="bool-value"),
        pytest.param({"metrics": {"step": 1}}, "name of the field 'step'", id="reserved"),
    ],
)
def test_a_broken_payload_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        parse_payload({**PAYLOAD.to_json(), **change})


def test_a_missing_field_is_named() -> None:
    value = PAYLOAD.to_json()
    del value["metrics"]
    with pytest.raises(PayloadError, match="lacks metrics"):
        parse_payload(value)


@pytest.mark.parametrize("line", ['{"schema_version": 1, "mode": "tr', "[1]", '{"step": 3}'])
def test_a_cut_line_is_refused(line: str) -> None:
    with pytest.raises(PayloadError):
        parse_line(line)
