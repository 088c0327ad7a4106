"""The page of `coordexp doctor data` in a real browser: both pictures with their boxes where they belong, findings legible, and no text that does anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordexp.cli.main import main
from coordexp.data.jsonl import read_records
from coordexp.models.assets import tiny_checkpoint

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=alert(1)> "
Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory, scenes_jsonl: Path) -> Path:
    """A data file in which two names are markup that ends with a space, and an image is missing."""
    folder = tmp_path_factory.mktemp("doctor")
    shutil.copytree(scenes_jsonl.parent, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.html"))
    lines = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    full = [line for line in lines if line["objects"]]
    for line in full[:2]:
        line["objects"][0]["desc"] = HOSTILE
    (folder / full[2]["images"][0]).unlink()
    (folder / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["doctor", "data", str(folder / "val.jsonl"), "--model", str(tiny_checkpoint()), "--samples", "7", "--output", str(folder / "page.html")]
    assert main(command) == 2
    return folder / "page.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_the_page_fits_its_width_in_both_schemes(visit: Opener, spoiled: Path, is_dark_on_light: Any, size: tuple[int, int], scheme: str) -> None:
    with visit(spoiled, size=size, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert is_dark_on_light(page) == (scheme == "light")


def test_hostile_names_are_shown_and_do_nothing(visit: Opener, spoiled: Path) -> None:
    with visit(spoiled) as page:
        assert page.title() == "Data doctor · val.jsonl"
        assert page.locator("h1").inner_text() == "Do not train on this"
        assert page.locator("img[src=x]").count() == page.locator("script").count() == 0
        assert page.locator(".tag", has_text="document.title='hacked'").count() == 4
        assert page.locator("[data-check=label_spaces] li", has_text="document.title='hacked'").count() == 2
        page.locator("summary", has_text="Prompt and answer as text").first.click()
        assert "document.title" in page.locator(".prompt.answer").first.inner_text()


def test_findings_stand_worst_first_with_lines_and_what_to_do(visit: Opener, spoiled: Path) -> None:
    with visit(spoiled) as page:
        findings = page.locator(".finding")
        assert findings.evaluate_all("found => found.map(item => item.dataset.check)") == ["image_file", "label_spaces"]
        assert page.locator(".finding.error li").inner_text().startswith("val.jsonl:")
        assert all("Fix:" in text for text in findings.all_inner_texts())


def test_boxes_of_the_file_and_those_read_back_lie_where_their_bins_say(visit: Opener, spoiled: Path) -> None:
    records = {f"val.jsonl:{number}": record for number, record in enumerate(read_records(spoiled.with_name("val.jsonl")), start=1)}
    with visit(spoiled) as page:
        sections = page.locator("section.rollout").all()
        assert len(sections) == len(records)
        for section in sections:
            record = records[section.locator("h2").inner_text().split()[0]]
            has_image = (spoiled.parent / record.image).is_file()
            assert section.locator("img").count() == (2 if has_image else 0)
            for side in ("source", "model") if has_image else ("source",):
                shot = section.locator(f".{side} .shot").bounding_box()
                boxes = section.locator(f".{side} .mark .edge").evaluate_all(
                    "edges => edges.map(edge => { const box = edge.getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]; })"
                )
                origin, extent = (shot["x"], shot["y"]) * 2, (shot["width"], shot["height"]) * 2
                expected = [[o + k / 999 * e for o, k, e in zip(origin, item.points, extent, strict=True)] for item in record.objects]
                assert [pytest.approx(box, abs=1.5) for box in sorted(expected)] == sorted(boxes)
        assert page.locator(".nothing").inner_text() == "Training refuses this record."
