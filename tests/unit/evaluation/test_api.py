"""The Python interface: `evaluate(records)` gives a typed result that prints, becomes tables and is saved."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from coordexp.evaluation.evaluate import evaluate
from coordexp.types.errors import BackendError


def test_records_in_memory_and_their_file_give_the_same_numbers(tmp_path: Path, make_scenes: Any) -> None:
    records = make_scenes(12, seed=4)
    path = tmp_path / "gt_vs_pred.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert evaluate(path).metrics == evaluate(str(path)).metrics == evaluate(iter(records)).metrics


def test_a_saved_result_holds_what_the_object_holds(tmp_path: Path, make_scenes: Any) -> None:
    result = evaluate(make_scenes(12, seed=4))
    result.save(str(tmp_path / "eval"))
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["metrics"] == dict(result.metrics)


def test_the_table_of_classes_agrees_with_the_saved_one(tmp_path: Path, make_scenes: Any) -> None:
    result = evaluate(make_scenes(30, seed=4))
    table = result.to_pandas().per_class
    result.save(tmp_path / "eval")
    with (tmp_path / "eval" / "per_class.csv").open() as stream:
        saved = {row["category"]: row for row in csv.DictReader(stream)}
    assert set(table["category"]) == set(saved)
    for row in table.to_dict("records"):
        for key in ("AP", "num_gt", "num_pred", "f1_det@0.50", "f1_det_miou", "recall@0.50"):
            assert row[key] == float(saved[row["category"]][key])


def test_the_table_of_images_has_one_row_an_image_and_adds_up(make_scenes: Any, record: Any) -> None:
    broken = record([{"bbox_2d": [0, 0, 9, 9], "desc": "a"}, "no object"], [{"desc": "a"}])
    result = evaluate([*make_scenes(10, seed=4), broken])
    table = result.to_pandas().per_image
    assert table["file_name"].tolist() == [image.file_name for image in result.data.images]
    assert table[["tp", "fp", "fn"]].sum().tolist() == [result.metrics[f"f1_det@0.50_{key}"] for key in ("tp", "fp", "fn")]
    assert table.iloc[-1][["width", "height", "num_invalid_gt", "num_invalid_pred"]].tolist() == [100, 80, 1, 1]
    assert pd.isna(table.iloc[-1]["mean_matched_iou"])


def test_nothing_to_evaluate_gives_empty_tables_with_no_error() -> None:
    frames = evaluate([]).to_pandas()
    assert (len(frames.per_class), len(frames.per_image)) == (0, 0)
    assert {"category", "AP", "tp"} <= set(frames.per_class)


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, record: Any) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BackendError, match=r"tables need pandas, which is not installed; pip install 'coordexp\[pandas\]'"):
        evaluate([record()]).to_pandas()
