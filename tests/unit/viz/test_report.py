"""The report file: what it holds, that data cannot become markup, that it needs nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from coordexp.cli.main import main
from coordexp.config.evaluation import EvalConfig
from coordexp.evaluation.evaluate import EvalSettings, evaluate
from coordexp.evaluation.semantic_report import DescRow, NearDuplicate, SemanticReport
from coordexp.recipes.evaluate import run_evaluation
from coordexp.recipes.report import run_report, write_report
from coordexp.semantics.lookup import DEFAULT_ENCODER, find_encoder
from coordexp.types.errors import DataError
from coordexp.viz.charts import WIDTH, Series, line_chart, nice_ticks, short_number, smooth, thin_out
from coordexp.viz.report import ReportRun
from coordexp.viz.run_files import RunFiles
from coordexp.viz.training_log import draw_curves, read_log

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


class _Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]

    def json_of(self, name: str) -> Any:
        """The data that a script of the page reads."""
        return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', self.text, re.DOTALL)[1])  # type: ignore[index]


def test_the_gallery_has_every_image_with_what_was_found_missed_and_invented(make_run: Any) -> None:
    data = _Page(run_report(make_run()).read_text()).json_of("gallery-data")
    names, kinds = data["names"], data["types"]
    file, width, height, gt, (pred,), picture = data["images"][1]
    assert (file, width, height, picture) == ("images/1.png", 96, 72, 1)
    assert [[names[item[0]], *item[1:]] for item in gt] == [["cat", 0, 5, 5, 25, 25], ["cat", 4, 60, 30, 80, 50]]  # 4: nothing stands for it at all
    assert [names[pred[0][0]], pred[0][1], kinds[-1 - pred[0][2]], *pred[0][3:]] == ["dog", 0.7, "classification", 5, 5, 25, 25]
    assert [item[2] for item in data["images"][0][4][0]] == [90, 90]  # hits carry their IoU


def test_the_file_needs_nothing_from_outside(make_run: Any) -> None:
    text = run_report(make_run(), before=make_run("old", drop_last=True)).read_text()
    markup = re.sub(r"<script>.*?</script>", "", re.sub(r"base64,[\w+/=]+", "", text), flags=re.DOTALL)
    assert not re.search(r"https?://|//[a-z]|@import|<link|<iframe", markup)
    assert all(not (attrs.get("src") or attrs.get("href") or "#").startswith(("http", "/", "file")) for _, attrs in _Page(text).tags)
    assert "default-src 'none'; img-src data:;" in text


def test_only_the_scripts_of_the_page_are_allowed_to_run(make_run: Any) -> None:
    text = run_report(make_run()).read_text()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert len(scripts) == 2
    assert set(re.findall(r"'sha256-([\w+/=]+)'", text)) == hashes
    assert not re.search(r"<[^>]+\son\w+=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("label", [HOSTILE, "</script><img src=x onerror=alert(1)>", "<!--<script>", "line\u2028separator"])
def test_a_hostile_label_stays_text(make_run: Any, label: str) -> None:
    page = _Page(run_report(make_run(label=label), title=label).read_text())
    assert [tag for tag, _ in page.tags].count("script") == 5  # two that run, three of data
    assert not [attrs for tag, attrs in page.tags if (tag == "img" and not (attrs["src"] or "").startswith("data:")) or "onerror" in attrs]
    assert label in page.json_of("gallery-data")["names"]


def test_a_comparison_shows_both_runs_and_the_change(make_run: Any) -> None:
    text = run_report(make_run(), before=make_run("old", drop_last=True)).read_text()
    data = _Page(text).json_of("gallery-data")
    assert data["runs"] == ["Before", "After"]
    assert [len(preds) for preds in data["images"][0][4]] == [1, 2]
    assert [item[1] for item in data["images"][0][3]] == [3, 2]  # bit 0: found before, bit 1: found now
    assert "compared with <strong>old</strong>" in text
    assert re.search(r'<span class="up">\+0\.\d{3}</span> from', text)


def test_runs_with_other_ground_truth_cannot_be_compared(make_run: Any) -> None:
    other = make_run("old", records=[{"gt": [], "pred": []}] * 4)
    with pytest.raises(DataError, match="ground truth differs"):
        run_report(make_run(), before=other)


def test_runs_on_different_images_cannot_be_compared(make_run: Any) -> None:
    other = make_run("old", records=[{"gt": [], "pred": []}])
    with pytest.raises(DataError, match="1 images before, 4 now"):
        run_report(make_run(), before=other)


def test_runs_under_different_rules_are_called_not_comparable(make_run: Any) -> None:
    old = make_run("old")
    (old / "resolved_config.json").write_text(json.dumps({"schema_version": 1, "config": {"infer": {"prompt_labels": "all"}}}))
    assert "prompt: all, unknown" in run_report(make_run(), before=old).read_text()


def test_a_run_that_said_nothing_before_was_made_under_no_other_rules(make_run: Any) -> None:
    silent = make_run("old") / "gt_vs_pred.jsonl"
    records = [json.loads(line) for line in silent.read_text().splitlines()]
    silent.write_text("\n".join(json.dumps({**record, "pred": []}) for record in records))
    assert "under different rules" not in run_report(make_run(), before=silent).read_text()


def test_a_manifest_of_another_version_is_refused(make_run: Any) -> None:
    run = make_run()
    (run / "resolved_config.json").write_text(json.dumps({"schema_version": 2}))
    with pytest.raises(DataError, match="schema_version 2 is not 1"):
        run_report(run)


def test_run_facts_come_from_the_files_beside_the_predictions(make_run: Any) -> None:
    run = make_run()
    (run / "resolved_config.json").write_text(
        json.dumps({"schema_version": 1, "root_image_dir": str(run), "config": {"infer": {"model_checkpoint": "ckpt/7"}}})
    )
    (run / "summary.json").write_text(json.dumps({"backend": {"type": "hf", "seed": 42}, "counters": {"generation_failed": 0}, "list": [1, 2], "none": None}))
    text = run_report(run).read_text()
    for name, value in (("checkpoint", "ckpt/7"), ("backend.seed", "42"), ("list", "1, 2")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text


def test_what_lies_beside_the_predictions_may_be_damaged(make_run: Any) -> None:
    run = make_run()
    (run / "resolved_config.json").write_text(json.dumps({"schema_version": 1, "config": {"infer": {"constrain": "json", "labels": 5}}}))
    (run / "summary.json").write_text('{"half a character": "\\ud800!"}')
    text = run_report(run, thumbnails="none").read_text()
    assert "constrain=json · " in text
    assert "\ufffd!" in text
    (run / "summary.json").write_text('{"a": ' * 5000 + "1" + "}" * 5000)
    with pytest.raises(DataError, match=r"summary\.json: not readable as JSON"):
        run_report(run, thumbnails="none")


def test_an_image_that_cannot_be_read_leaves_an_empty_ground_and_a_notice(make_run: Any) -> None:
    run = make_run()
    (run / "images" / "1.png").unlink()
    page = _Page(run_report(run).read_text())
    assert "1 of 4 images could not be read" in page.text
    assert [image[5] for image in page.json_of("gallery-data")["images"]] == [1, 0, 1, 1]


def test_what_only_some_evaluations_have_gets_its_place(make_run: Any, tmp_path: Path) -> None:
    files = RunFiles.of(make_run())
    result = evaluate(files.predictions, settings=EvalSettings(bootstrap=20))
    rows = (DescRow(HOSTILE, 3, "cat", 0.71, mapped=True), DescRow("tree", 1, "dog", 0.2, mapped=False))
    names = SemanticReport(0.6, "encoder", rows, (NearDuplicate("cat", "dog", 0.66),), 1)
    write_report(ReportRun("run", files, replace(result, semantic_report=names)), tmp_path / "report.html", root=None)
    page = _Page((tmp_path / "report.html").read_text())
    low, high = result.intervals.of["f1_det@0.50"]  # type: ignore[union-attr]
    assert f"</span>{low:.3f} to {high:.3f}</p>" in page.text
    assert "1 pair of categories is so near that the threshold cannot tell them apart: cat / dog (0.66)" in page.text
    assert [attrs["data-value"] for tag, attrs in page.tags if tag == "th" and attrs.get("data-value") in (HOSTILE, "tree")] == [HOSTILE, "tree"]
    assert page.text.count(">dropped</span>") == 1


def test_a_folder_without_predictions_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no gt_vs_pred\.jsonl"):
        run_report(tmp_path)


def test_a_report_of_no_records_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "gt_vs_pred.jsonl").write_text("")
    assert "0 images" in run_report(tmp_path).read_text()


def _log(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    (folder / "logging.jsonl").write_text("\n".join(lines))
    return folder


def test_training_curves_hold_evaluation_too_and_skip_half_a_line(make_run: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"schema_version": 1, "mode": "train", "step": step, "time": 0.1, "loss": 1 / step, "learning_rate": 1e-4}) for step in range(1, 101)]
    log = _log(tmp_path / "train", [*lines, json.dumps({"mode": "eval", "step": 100, "eval_loss": 0.2}), '{"step": 1'])
    charts = draw_curves(read_log(log))
    assert [(chart.title, chart.last) for chart in charts] == [("loss", 0.01), ("learning_rate", 0.0001)]
    assert "eval from 0.2 to 0.2" in charts[0].svg
    assert run_report(make_run(), training=log).read_text().count('data-rest="last"') == 2


@pytest.mark.parametrize(("lines", "sentence"), [(["", "{"], "holds no logged step"), (None, r"there is no logging\.jsonl")])
def test_a_log_without_steps_is_one_sentence(tmp_path: Path, lines: list[str] | None, sentence: str) -> None:
    folder = tmp_path if lines is None else _log(tmp_path / "train", lines)
    with pytest.raises(DataError, match=sentence):
        read_log(folder)


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0, 2.0), (0.0, 0.0), (-1e-7, 1e-7), tuple(float(value) for value in range(1000))])
def test_any_curve_can_be_drawn_inside_its_frame(values: tuple[float, ...]) -> None:
    svg = line_chart([Series("a<b", tuple(float(step) for step in range(len(values))), values)], title='"t"', x_name="step")
    numbers = [float(value) for value in re.findall(r'(?:points="|[ ,])(\d+\.\d+|\d+)(?=[ ,"])', svg.split("polyline")[-1].split("/>")[0])]
    assert all(0 <= number <= WIDTH for number in numbers)
    assert "a<b" not in svg


def test_ticks_are_round_and_numbers_short() -> None:
    assert nice_ticks(0.0, 1.0, count=4) == [0.0, 0.5, 1.0]
    assert nice_ticks(3, 97, count=5) == [20, 40, 60, 80]
    assert [short_number(value) for value in (0, 0.00012, 0.5, 12345.0)] == ["0", "1.2e-4", "0.5", "12.35k"]


def test_smoothing_and_thinning_keep_the_mean() -> None:
    line = Series("a", tuple(float(step) for step in range(960)), tuple(float(step % 7) for step in range(960)))
    thin = thin_out(line)
    assert len(thin.x) == 240
    assert sum(thin.y) / 240 == pytest.approx(sum(line.y) / 960)
    assert smooth([0, 3, 0], window=3) == (1.5, 1.0, 1.5)


def test_both_runs_are_measured_under_the_rules_of_the_runs_own_evaluation_and_flags_win(make_run: Any) -> None:
    run, before = make_run(), make_run("old", drop_last=True)
    assert "labels=exact · pixels=int" in run_report(run, before=before).read_text()
    rules = {"pixel_mode": "exact", "label_match": "semantic", "iou_thrs": [0.5, 0.75], "score_mode": "constant"}
    run_evaluation(EvalConfig(pred_jsonl=run / "gt_vs_pred.jsonl", out_dir=run / "eval", **rules))
    text = run_report(run, before=before).read_text()
    assert "labels=semantic&gt;=0.6 · pixels=exact · scores=constant · AP@0.50,0.75" in text
    assert "pixels=int" not in text, "of the earlier run too"
    flagged = run_report(run, rules={"pixel_mode": "int", "label_match": "exact"}).read_text()
    assert "labels=exact · pixels=int · scores=constant" in flagged


def test_an_evaluation_beside_the_predictions_need_not_be_one_of_them(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    other = tmp_path / "other.jsonl"
    other.write_bytes((run / "gt_vs_pred.jsonl").read_bytes())
    first = EvalConfig(pred_jsonl=other, out_dir=run / "eval", pixel_mode="exact", label_match="exact")
    files = tmp_path / "coco"
    run_evaluation(first).save(files)
    other.unlink()
    assert "labels=exact · pixels=exact" in run_report(run).read_text()
    run_evaluation(EvalConfig(coco_gt=files / "coco_gt.json", coco_preds=files / "coco_preds.json", out_dir=run / "eval"))
    assert "labels=exact · pixels=int" in run_report(run).read_text(), "rules of COCO files are not those of records"


def test_an_evaluation_that_records_unknown_rules_is_one_sentence(make_run: Any) -> None:
    run = make_run()
    run_evaluation(EvalConfig(pred_jsonl=run / "gt_vs_pred.jsonl", out_dir=run / "eval", label_match="exact"))
    recorded = json.loads((run / "eval" / "metrics.json").read_text())
    recorded["protocol"]["pixel_mode"] = "other"
    (run / "eval" / "metrics.json").write_text(json.dumps(recorded))
    with pytest.raises(DataError, match=r"eval: records rules that are none of an evaluation \(pixel_mode\)"):
        run_report(run)


def test_an_encoder_that_was_a_folder_elsewhere_can_be_named(make_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    box = {"type": "bbox_2d", "points": [5, 5, 25, 25]}
    run = make_run(records=[{"gt": [{**box, "desc": "cat"}], "pred": [{**box, "desc": "kitty"}]}])
    run_evaluation(EvalConfig(pred_jsonl=run / "gt_vs_pred.jsonl", out_dir=run / "eval"))
    recorded = (run / "eval" / "metrics.json").read_text()
    (run / "eval" / "metrics.json").write_text(re.sub(r'"label_encoder": ".*@', '"label_encoder": "my_encoder@', recorded))
    report = ["report", str(run), "--thumbnails", "none"]
    assert main(report) == 2
    assert "the text encoder 'my_encoder' is not on this machine" in capsys.readouterr().err
    assert main([*report, "--semantic-model", str(find_encoder(DEFAULT_ENCODER).folder)]) == 0
    assert "labels=semantic&gt;=0.6" in (run / "report.html").read_text()
