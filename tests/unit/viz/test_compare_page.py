"""The page of a comparison: what it says, what it escapes, and how changes are drawn."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.config.compare import CompareConfig
from coordexp.evaluation.compare import Change
from coordexp.recipes.compare import distinct_names, run_compare
from coordexp.viz.comparison_data import WIDTH, interval_mark, spell_share, widest

RunMaker = Callable[..., Path]
HOSTILE = "</script><b onclick='x'>&\""


def _page(a: Path, b: Path, **settings: Any) -> str:
    _, folder = run_compare(CompareConfig(a=a, b=b, out_dir=a.parent / "out", label_match="exact", bootstrap=20, **settings))
    return (folder / "compare.html").read_text()


def _images(page: str) -> list[Any]:
    """The rows that the gallery is drawn from."""
    data = re.search(r'<script type="application/json" id="gallery-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data[1])["images"] if data else []


def test_the_page_holds_everything_and_runs_only_its_own_scripts(make_run: RunMaker) -> None:
    page = _page(make_run("before", drop_last=True), make_run("after"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    assert len(hashes) == 2
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {' '.join(hashes)}\"" in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!#)[^\"')]+", markup)
    assert "<title>before → after · comparison</title>" in page


def test_text_of_the_data_is_escaped(make_run: RunMaker) -> None:
    page = _page(make_run("before", label=HOSTILE, drop_last=True), make_run("after", label=HOSTILE))
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;b onclick=&#39;x&#39;&gt;&amp;&#34;" in page


def test_only_images_that_changed_are_in_the_gallery_with_both_runs(make_run: RunMaker) -> None:
    images = _images(_page(make_run("before", drop_last=True), make_run("after")))
    assert [(file, picture) for file, *_, picture in images] == [("images/0.png", 1), ("images/3.png", 1)]
    assert [[flags for _, flags, *_ in gt] for _, _, _, gt, *_ in images] == [[3, 2], [2]]  # bit 0: found by A, bit 1: by B
    assert [[len(preds) for preds in both] for *_, both, _ in images] == [[1, 2], [0, 1]]


@pytest.mark.parametrize(("max_images", "count"), [(0, 0), (1, 1), (60, 2)])
def test_the_page_holds_as_many_images_as_asked_for(make_run: RunMaker, max_images: int, count: int) -> None:
    page = _page(make_run("before", drop_last=True), make_run("after"), max_images=max_images)
    assert len(_images(page)) == count
    assert ('id="gallery"' in page) == (count > 0)


def test_different_rules_are_an_alarm_and_equal_ones_are_shown(make_run: RunMaker) -> None:
    before, after = make_run("before"), make_run("after")
    assert 'role="alert"' not in _page(before, after)
    bare = (after / "gt_vs_pred.jsonl").read_text().replace('"score"', '"unused"')
    (after / "gt_vs_pred.jsonl").write_text(bare)
    page = _page(before, after)
    assert "Not comparable: the two runs were measured under different rules.</strong>score_mode: model, constant" in page
    assert "COCO AP of B is not valid" in page


def test_without_resamples_no_interval_is_drawn(make_run: RunMaker) -> None:
    before, after = make_run("before", drop_last=True), make_run("after")
    run_compare(CompareConfig(a=before, b=after, out_dir=before.parent / "out", label_match="exact", bootstrap=0))
    page = (before.parent / "out/compare.html").read_text()
    assert '<svg class="reach' not in page
    assert "B above A</th>" not in page
    assert ">+0." in page


def test_without_readable_pictures_there_are_boxes_and_a_notice(make_run: RunMaker) -> None:
    before, after = make_run("before", drop_last=True), make_run("after")
    for picture in (after / "images").iterdir():
        picture.unlink()
    page = _page(before, after)
    assert [picture for *_, picture in _images(page)] == [0, 0]
    assert "2 images could not be read; their boxes are drawn on an empty ground." in page


def test_runs_come_with_what_differs_between_them_first(make_run: RunMaker) -> None:
    before, after = make_run("before"), make_run("after")
    for folder, checkpoint in ((before, "old"), (after, "new")):
        (folder / "summary.json").write_text(f'{{"same": 1, "checkpoint": "{checkpoint}"}}')
    rows = re.findall(r'<tr( class="differs")?><th scope="row">(.*?)</th>', _page(before, after).partition('<table class="diff">')[2])
    names = [name for mark, name in rows if mark]
    assert {"checkpoint", "folder"} <= set(names)
    assert [name for _, name in rows][: len(names)] == names
    assert "same" not in names


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("out/before/gt_vs_pred.jsonl", "out/after/gt_vs_pred.jsonl", ("before", "after")),
        ("x/infer/gt_vs_pred.jsonl", "y/infer/gt_vs_pred.jsonl", ("x/infer", "y/infer")),
        ("out/one.jsonl", "out/two.jsonl", ("one", "two")),
        ("out/run/a.jsonl", "out/a.jsonl", ("run", "out")),
        ("run/gt_vs_pred.jsonl", "run/gt_vs_pred.jsonl", ("run (A)", "run (B)")),
    ],
)
def test_runs_are_named_by_the_shortest_ends_that_differ(tmp_path: Path, a: str, b: str, names: tuple[str, str]) -> None:
    assert distinct_names(tmp_path / a, tmp_path / b) == names


@pytest.mark.parametrize(
    ("change", "style", "dot"),
    [
        (Change(0.2, 0.5, 0.1, 0.4), "up", 0.3),
        (Change(0.5, 0.2, -0.4, -0.1), "down", -0.3),
        (Change(0.5, 0.4, -0.3, 0.1), "same", -0.1),
        (Change(0.1, 0.9), "same", 0.5),
    ],
    ids=["clear gain", "clear loss", "unclear", "without interval, beyond the edge"],
)
def test_a_change_is_drawn_where_it_is(change: Change, style: str, dot: float) -> None:
    drawn = interval_mark(change, 0.5)
    center = re.search(r'<circle cx="([\d.]+)"', drawn)
    assert f'class="reach {style}"' in drawn
    assert center is not None
    assert float(center[1]) == pytest.approx(WIDTH / 2 + dot / 0.5 * (WIDTH / 2 - 5))
    assert ('class="span"' in drawn) == (change.low is not None)


def test_an_axis_is_as_wide_as_its_changes_up_to_a_limit() -> None:
    assert widest([]) == 0.01
    assert widest([Change(0, 0.02, -0.03, 0.05)]) == 0.05
    assert widest([Change(0, 0.9, 0.8, 1.0)]) == 0.5


def test_shares_are_spelled_out() -> None:
    assert [spell_share(change) for change in (Change(0, 1, 0.5, 1, 0.998), Change(0, 0, 0, 0, 0.0), Change(0, 1))] == ["99.8 %", "equal", ""]
