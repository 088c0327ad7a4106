"""The form in which metrics travel inside the program, and the line of `logging.jsonl`. A payload of another major version is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args

SCHEMA_VERSION: Final = 1

Mode: TypeAlias = Literal["train", "eval"]
_LINE_FIELDS: Final = ("schema_version", "mode", "step", "time")


class PayloadError(ValueError):
    """A metric payload that breaks its schema."""


@dataclass(frozen=True, slots=True)
class MetricPayload:
    """Example: `MetricPayload(mode="train", global_step=20, metrics={"loss": 2.31})`"""

    mode: Mode
    global_step: int
    metrics: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise PayloadError(f"mode is {self.mode!r}, not train or eval")
        if not _is_int(self.global_step) or self.global_step < 0:
            raise PayloadError(f"global_step is {self.global_step!r}, not a whole number from 0")
        for key, value in self.metrics.items():
            if key in _LINE_FIELDS:
                raise PayloadError(f"a metric cannot have the name of the field '{key}'")
            if isinstance(value, bool) or not isinstance(cast(object, value), int | float) or not math.isfinite(value):
                raise PayloadError(f"the metric '{key}' is {value!r}, not a finite number")

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, "mode": self.mode, "global_step": self.global_step, "metrics": dict(self.metrics)}

    def to_line(self, *, time: str) -> str:
        """One line of `logging.jsonl`: the fields, then the metrics, flat. `time` is ISO 8601 in UTC."""
        head = {"schema_version": SCHEMA_VERSION, "mode": self.mode, "step": self.global_step, "time": time}
        return json.dumps({**head, **self.metrics}, allow_nan=False, ensure_ascii=False)


def parse_payload(value: Mapping[str, Any]) -> MetricPayload:
    """Read `to_json` back.

    Raises:
        PayloadError: a missing, non-integer or unknown version, a missing field, or a value that is not a finite number.
    """
    _check_version(value.get("schema_version"))
    missing = [name for name in ("mode", "global_step", "metrics") if name not in value]
    if missing:
        raise PayloadError(f"the payload lacks {', '.join(missing)}")
    if not isinstance(value["metrics"], Mapping):
        raise PayloadError("metrics is not a mapping")
    return MetricPayload(mode=value["mode"], global_step=value["global_step"], metrics=cast(Mapping[str, float], value["metrics"]))


def parse_line(line: str) -> MetricPayload:
    """Read one line of `logging.jsonl`.

    Raises:
        PayloadError: not a JSON object, or a broken schema.
    """
    try:
        value: object = json.loads(line)
    except json.JSONDecodeError as error:
        raise PayloadError(f"not a line of JSON ({error})") from error
    if not isinstance(value, dict):
        raise PayloadError("not a JSON object")
    fields = cast(dict[str, Any], value)
    metrics = {key: item for key, item in fields.items() if key not in _LINE_FIELDS}
    return parse_payload(
        {**{name: fields[name] for name in ("schema_version", "mode") if name in fields}, "global_step": fields.get("step"), "metrics": metrics}
    )


def _check_version(version: object) -> None:
    if not _is_int(version):
        raise PayloadError(f"schema_version is {version!r}, not a whole number")
    if version != SCHEMA_VERSION:
        raise PayloadError(f"schema_version {version} is not {SCHEMA_VERSION}, the only one that this version reads")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
