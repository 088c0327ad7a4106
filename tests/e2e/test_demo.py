"""The demo in its quick form: every step real, few scenes; a second run reuses everything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordexp.cli.main import main


@pytest.mark.slow
def test_the_quick_demo_leaves_report_summary_and_runs_and_is_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "demo"
    assert main(["demo", "--quick", "--output", str(output)]) == 0
    first = json.loads((output / "demo_summary.json").read_text())
    assert {"f1_50_before", "f1_50_after", "mean_iou_after", "seconds", "peak_memory_mb"} <= first.keys()
    assert first["num_steps_reused"] == 0
    assert first["peak_memory_mb"] < 6000
    assert "<html" in (output / "report.html").read_text()
    assert len((output / "after" / "gt_vs_pred.jsonl").read_text().splitlines()) == 8
    assert len(list((output / "train").glob("v*/*/logging.jsonl"))) == 1

    assert main(["demo", "--quick", "--output", str(output)]) == 0
    second = json.loads((output / "demo_summary.json").read_text())
    assert second["num_steps_reused"] == 7
    assert {key: second[key] for key in ("f1_50_before", "f1_50_after", "seconds")} == {key: first[key] for key in ("f1_50_before", "f1_50_after", "seconds")}
    assert "coordexp train --config" in capsys.readouterr().err
