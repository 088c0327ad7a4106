"""`coordexp eval`, with and without a sub-command: what is accepted, what is refused, what is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordexp.cli.main import main

REPO = Path(__file__).parents[2]
Runner = Callable[..., tuple[int, str, str]]


def _write_run(folder: Path, *, keep: float, scored: bool = True, num_images: int = 32) -> Path:
    """Images with up to four objects each; a share `keep` is found."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(num_images):
        rng = np.random.default_rng([index, round(100 * keep)])
        Image.new("RGB", (120, 90), (index, 80, 120)).save(folder / "images" / f"{index}.png")
        gt = [{"type": "bbox_2d", "points": [5 + 25 * k, 10, 25 + 25 * k, 50], "desc": ("cat", "dog")[k % 2]} for k in range(index % 5)]
        pred = [{**item, **({"score": float(rng.random())} if scored else {})} for item in gt if rng.random() < keep]
        lines.append(json.dumps({"image": f"images/{index}.png", "width": 120, "height": 90, "coord_mode": "pixel", "gt": gt, "pred": pred}))
    (folder / "gt_vs_pred.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder with the runs `before` and `after`."""
    monkeypatch.chdir(tmp_path)
    _write_run(tmp_path / "before", keep=0.3)
    _write_run(tmp_path / "after", keep=0.9)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["eval", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_two_run_folders_are_compared_on_the_console_as_json_and_as_a_page(runs: Path, run: Runner) -> None:
    code, out, _ = run("compare", "before", "after", "--bootstrap", "100")
    summary = json.loads((runs / "after/compare_with_before/compare.json").read_text())
    change = summary["metrics"]["f1_det@0.50"]
    assert code == 0
    assert out.startswith("A  before\nB  after\n")
    assert (
        f"F1 at IoU 0.50  {change['a']:>7.3f}  {change['b']:.3f}  {change['delta']:+.3f}".split()
        == next(line for line in out.splitlines() if line.startswith("F1 at IoU 0.50")).split()[:7]
    )
    assert "comparison: after/compare_with_before" in out
    assert (summary["comparable"], summary["bootstrap"]["num_resamples"], summary["bootstrap"]["seed"]) == (True, 100, 0)
    assert (runs / "after/compare_with_before/compare.html").stat().st_size > 10_000


def test_a_comparison_is_the_same_every_time_and_leaves_other_files(runs: Path, run: Runner) -> None:
    (runs / "out").mkdir()
    (runs / "out/notes.txt").write_text("mine")
    argv = ("compare", "before/gt_vs_pred.jsonl", "after", "--out_dir", "out", "--bootstrap", "30", "--seed", "5")
    texts = [(run(*argv)[0], (runs / "out/compare.json").read_text()) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0][0] == 0
    assert sorted(path.name for path in (runs / "out").iterdir()) == ["compare.html", "compare.json", "notes.txt"]


def test_the_folder_of_an_evaluation_keeps_its_rules_and_flags_win(runs: Path, run: Runner) -> None:
    rules = ("--pixel-mode", "exact", "--label-match", "exact", "--iou-thrs", "0.5", "0.75")
    for name in ("before", "after"):
        assert run("--pred_jsonl", f"{name}/gt_vs_pred.jsonl", "--out_dir", f"{name}/eval", *rules)[0] == 0
    run("compare", "before/eval", "after/eval", "--out_dir", "kept", "--bootstrap", "0")
    run("compare", "before/eval", "after/eval", "--out_dir", "asked", "--bootstrap", "0", "--pixel-mode", "int")
    protocols = [json.loads((runs / out / "compare.json").read_text())["a"]["protocol"] for out in ("kept", "asked")]
    assert [(item["pixel_mode"], item["label_rule"], item["iou_thrs"]) for item in protocols] == [
        ("exact", "exact", [0.5, 0.75]),
        ("int", "exact", [0.5, 0.75]),
    ]
    assert json.loads((runs / "kept/compare.json").read_text())["comparable"] is True


def test_two_models_are_compared_on_coco_files(runs: Path, run: Runner) -> None:
    run("--pred_jsonl", "before", "--out_dir", "coco", "--label-match", "exact")
    (runs / "coco/coco_gt.json").rename(runs / "instances.json")
    preds = json.loads((runs / "coco/coco_preds.json").read_text())
    for name, count in (("small", len(preds) // 2), ("large", len(preds))):
        (runs / f"{name}.json").write_text(json.dumps(preds[:count]))
        assert run("--coco-gt", "instances.json", "--coco-preds", f"{name}.json", "--out_dir", f"{name}_eval")[0] == 0
    code, out, err = run("compare", "small_eval", "large_eval", "--out_dir", "out", "--bootstrap", "20")
    summary = json.loads((runs / "out/compare.json").read_text())
    assert code == 0
    assert out.startswith("A  small\nB  large\n")
    assert "warning: the page has no pictures" in err
    assert (summary["comparable"], summary["a"]["coco_gt"]) == (True, str(runs / "instances.json"))
    assert summary["metrics"]["f1_det@0.50_recall"]["delta"] > 0


def test_runs_under_different_rules_end_well_with_a_loud_warning(runs: Path, run: Runner) -> None:
    _write_run(runs / "bare", keep=0.5, scored=False)
    code, out, _ = run("compare", "before", "bare", "--out_dir", "out", "--bootstrap", "10")
    assert code == 0
    assert "WARNING: not comparable, the rules differ: score_mode: model, constant" in out
    assert json.loads((runs / "out/compare.json").read_text())["comparable"] is False


def test_without_ap_there_is_none(runs: Path, run: Runner) -> None:
    assert run("compare", "before", "after", "--out_dir", "out", "--bootstrap", "10", "--no-ap")[0] == 0
    assert not any(key.startswith("bbox_") for key in json.loads((runs / "out/compare.json").read_text())["metrics"])


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["compare", "before", "gone"], "error: gone: there is no gt_vs_pred.jsonl; give the folder of an inference run, or the file itself"),
        (["compare", "before", "short"], "error: short: has 5 images, before has 32; run inference on the same data file for both"),
        (["compare", "before"], "error: Missing argument 'B'; see 'coordexp eval compare --help'"),
        (["compare", "before", "after", "--bootstrap", "-1"], "error: --bootstrap: bootstrap: "),
        (["compare", "before", "after", "--pixel-mode", "exakt"], "error: --pixel-mode: pixel_mode: expected int or exact, got 'exakt'; did you mean exact?"),
        (
            ["--out_dir", "o", "--overlay-k", "0", "compare", "before", "after"],
            "error: coordexp eval compare: --out-dir, --overlay-k before 'compare' has no effect; see 'coordexp eval compare --help'",
        ),
        (["comparison", "before", "after"], "error: No such command 'comparison'"),
    ],
    ids=["no run", "other images", "one run", "negative", "misspelt", "flags of the evaluation", "unknown command"],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(runs: Path, run: Runner, argv: list[str], sentence: str) -> None:
    _write_run(runs / "short", keep=0.5, num_images=5)
    before = sorted(runs.rglob("*"))
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(sentence)
    assert sorted(runs.rglob("*")) == before


def test_an_evaluation_shows_and_writes_intervals_when_asked(runs: Path, run: Runner) -> None:
    argv = ("--pred_jsonl", "after", "--out_dir", "eval", "--bootstrap", "50", "--bootstrap-seed", "3")
    _, _, err = run(*argv)
    summary: dict[str, Any] = json.loads((runs / "eval/metrics.json").read_text())
    low, high = summary["intervals"]["f1_det@0.50"]
    assert f"f1_det@0.50 {summary['metrics']['f1_det@0.50']:.4f} [{low:.4f}, {high:.4f}]" in err
    assert (summary["bootstrap"]["num_resamples"], summary["bootstrap"]["seed"]) == (50, 3)


def test_the_script_evaluates_and_compares(runs: Path) -> None:
    script = [sys.executable, str(REPO / "scripts/evaluate_detection.py")]
    flags = ["--pred_jsonl", "after/gt_vs_pred.jsonl", "--out_dir", "eval", "--f1ish-iou-thrs", "0.4", "0.6", "--iou-thrs", "0.5", "0.75"]
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    subprocess.run([*script, *flags], cwd=runs, env=environment, check=True, capture_output=True)
    metrics = json.loads((runs / "eval/metrics.json").read_text())
    assert (metrics["protocol"]["iou_thrs"], "f1ish@0.60_f1_full_micro" in metrics["metrics"]) == ([0.5, 0.75], True)
    subprocess.run([*script, "compare", "before", "after", "--out_dir", "out", "--bootstrap", "5"], cwd=runs, env=environment, check=True, capture_output=True)
    assert (runs / "out/compare.html").is_file()


def test_help_lists_the_flags_and_the_sub_command(run: Runner) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "--pred_jsonl" in out
    assert "compare  What changed between two runs on the same images." in out
