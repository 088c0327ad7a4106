"""Dirty files as hypothesis draws and shrinks them: whatever stands in the lines, the evaluation ends and every object is either used or counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.result import EvaluationResult

NUM_EXAMPLES = 20_000 if settings().max_examples == 2000 else 200
"""The long form draws 2,000 of a usual property."""

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 999),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["<|coord_5|>", "<|coord_1000|>", "12", "NaN", "unknown", "\ud800", 10**25, 1e308, -0.0]),
)
json_values = st.recursive(values, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=8)


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any] = json_values) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 7 + [rare]).flatmap(lambda chosen: chosen)


numbers = st.one_of(st.integers(-3, 70), st.integers(0, 64).map(lambda k: f"<|coord_{15 * k}|>"), st.floats(-3, 70))
rings = mostly(st.one_of(st.lists(numbers, min_size=3, max_size=8), st.lists(st.tuples(numbers, numbers).map(list), max_size=5)))
names = st.sampled_from(["cat", "Cat", "dog", "unknown", ""])
geometry = st.sampled_from(["bbox_2d", "poly", "points"]).flatmap(lambda key: st.fixed_dictionaries({key: rings}))
more = st.fixed_dictionaries(
    {}, optional={"type": mostly(st.sampled_from(["bbox_2d", "poly", "line"])), "poly": rings, "points_exact": rings, "desc": json_values}
)
dirty = st.tuples(geometry, st.fixed_dictionaries({"desc": names, "score": mostly(st.floats(0, 1))}), more).map(lambda parts: parts[0] | parts[1] | parts[2])
boxes = st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 15)).map(
    lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
)
clean = st.fixed_dictionaries(
    {"bbox_2d": st.one_of(st.just([5, 5, 40, 40]), boxes), "desc": st.sampled_from(["cat", "dog"])}, optional={"score": st.floats(0, 1)}
)
sides = mostly(st.lists(st.one_of(clean, clean, dirty, json_values), max_size=4))
sizes = mostly(st.just(64), st.one_of(st.sampled_from(["64", 48.5, 0, -1]), json_values))
records = st.fixed_dictionaries(
    {"width": sizes, "height": sizes, "gt": sides, "pred": sides},
    optional={
        **dict.fromkeys(("objects", "predictions"), sides),
        **dict.fromkeys(("image", "images", "errors", "broken", "finish_reason", "extra"), json_values),
        **dict.fromkeys(("coord_mode", "coord_space"), mostly(st.sampled_from(["pixel", "norm1000", "token"]))),
    },
)
written = mostly(records).map(lambda value: json.dumps(value).encode())
cut = st.tuples(written, st.integers(0, 60), st.binary(max_size=3)).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :])
files = st.lists(mostly(written, st.one_of(cut, st.binary(max_size=12))), min_size=1, max_size=4).map(b"\n".join)


def parse(line: bytes) -> Any:
    """What stands in a line; None when it is not JSON."""
    try:
        return json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def num_objects(record: dict[str, Any], *names: str) -> int:
    """Under the first name that holds something; what is not a list counts as one."""
    value = next((record[name] for name in names if record.get(name)), [])
    return len(value) if isinstance(value, list) else 1


def check(result: EvaluationResult, content: bytes) -> None:
    """Every line is an image or counted, every object of an image used or kept with its reason."""
    lines = [parse(line) for line in content.split(b"\n") if line.strip()]
    found = [line for line in lines if isinstance(line, dict)]
    data, counters = result.data, result.counters
    assert counters["invalid_json"] == len(lines) - len(found)
    assert counters["missing_size"] == len(found) - len(data.images)
    for place, image in enumerate(data.images):
        record = found[image.image_id]
        assert int((data.gt.image == place).sum()) + len(image.invalid_gt) == num_objects(record, "gt", "objects")
        assert int((data.pred.image == place).sum()) + len(image.invalid_pred) == num_objects(record, "pred", "predictions")
    num_invalid = sum(len(image.invalid_gt) + len(image.invalid_pred) for image in data.images)
    assert sum(counters[name] for name in ("invalid_geometry", "invalid_coord", "degenerate", "unknown_desc")) == num_invalid
    assert all(math.isfinite(value) for value in result.metrics.values())
    json.dumps(result.summary(), allow_nan=False)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dirty") / "gt_vs_pred.jsonl"


@pytest.mark.timeout(3600)  # the long form takes minutes, on a busy machine many
@settings(max_examples=NUM_EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(content=files, pixel_mode=st.sampled_from(["int", "exact"]), scope=st.sampled_from(["annotated", "all"]))
def test_whatever_stands_in_the_lines_every_object_is_used_or_counted(
    path: Path, content: bytes, pixel_mode: Literal["int", "exact"], scope: Literal["annotated", "all"]
) -> None:
    path.write_bytes(content)
    check(evaluate(path, settings=EvalSettings(pixel_mode=pixel_mode, f1ish_pred_scope=scope)), content)
