"""The report file: what it holds, that data cannot become markup, that it needs nothing from outside."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from coordexp.recipes.report import run_report
from coordexp.types.errors import DataError
from coordexp.viz.charts import Series, line_chart, nice_ticks, short_number, smooth, thin_out
from coordexp.viz.training_log import draw_curves, read_log

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7*7 }}"


class _Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def test_the_gallery_starts_with_the_worst_image(make_run: Any) -> None:
    page = _Page(run_report(make_run()).read_text())
    assert [(card["data-place"], card["data-errors"]) for card in page.with_class("card")] == [("1", "3"), ("2", "1"), ("0", "0"), ("3", "0")]
    assert [len(page.with_class(name)) for name in ("mark", "miss", "false")] == [10, 5, 5]  # two outlines, two tags, one entry of the legend


def test_the_file_needs_nothing_from_outside(make_run: Any) -> None:
    text = run_report(make_run(), before=make_run("old", drop_last=True)).read_text()
    assert not re.search(r"https?://|//[a-z]|@import|<link|<iframe", re.sub(r"base64,[\w+/=]+", "", text))
    assert all(not (attrs.get("src") or attrs.get("href") or "#").startswith(("http", "/", "file")) for _, attrs in _Page(text).tags)
    assert "default-src 'none'" in text


def test_a_hostile_label_stays_text(make_run: Any) -> None:
    page = _Page(run_report(make_run(label=HOSTILE), title=HOSTILE).read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [attrs for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert json.loads(page.with_class("card")[0]["data-labels"] or "") == [HOSTILE, "dog"]


def test_a_comparison_shows_both_runs_and_the_change(make_run: Any) -> None:
    text = run_report(make_run(), before=make_run("old", drop_last=True)).read_text()
    assert len(_Page(text).with_class("shot")) == 8
    assert "compared with <strong>old</strong>" in text
    assert re.search(r'<span class="up">\+0\.\d{3}</span> from', text)


def test_runs_on_different_images_cannot_be_compared(make_run: Any) -> None:
    other = make_run("old", records=[{"gt": [], "pred": []}])
    with pytest.raises(DataError, match="1 images before, 4 now"):
        run_report(make_run(), before=other)


def test_runs_under_different_rules_are_called_not_comparable(make_run: Any) -> None:
    old = make_run("old")
    (old / "resolved_config.json").write_text(json.dumps({"schema_version": 1, "config": {"infer": {"prompt_labels": "all"}}}))
    assert "prompt: all, unknown" in run_report(make_run(), before=old).read_text()


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


def test_max_images_limits_the_gallery_and_zero_means_all(make_run: Any) -> None:
    run = make_run()
    assert [len(_Page(run_report(run, max_images=count).read_text()).with_class("card")) for count in (1, 0)] == [1, 4]


def test_an_image_that_cannot_be_read_leaves_an_empty_ground_and_a_notice(make_run: Any) -> None:
    run = make_run()
    (run / "images" / "1.png").unlink()
    assert "1 of the 4 images in the gallery could not be read" in run_report(run).read_text()


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
    assert len(_Page(run_report(make_run(), training=log).read_text()).with_class("chart")) == 3


@pytest.mark.parametrize(("lines", "sentence"), [(["", "{"], "holds no logged step"), (None, r"there is no logging\.jsonl")])
def test_a_log_without_steps_is_one_sentence(tmp_path: Path, lines: list[str] | None, sentence: str) -> None:
    folder = tmp_path if lines is None else _log(tmp_path / "train", lines)
    with pytest.raises(DataError, match=sentence):
        read_log(folder)


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0, 2.0), (0.0, 0.0), (-1e-7, 1e-7), tuple(float(value) for value in range(1000))])
def test_any_curve_can_be_drawn_inside_its_frame(values: tuple[float, ...]) -> None:
    svg = line_chart([Series("a<b", tuple(float(step) for step in range(len(values))), values)], title='"t"', x_name="step")
    numbers = [float(value) for value in re.findall(r'(?:points="|[ ,])(\d+\.\d+|\d+)(?=[ ,"])', svg.split("polyline")[-1].split("/>")[0])]
    assert all(0 <= number <= 360 for number in numbers)
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
