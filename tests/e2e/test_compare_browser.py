"""The page of a comparison in a real browser: fits its screen, sorts, draws intervals, shows both runs, and lets no text of the data do anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.config.compare import CompareConfig
from coordexp.recipes.compare import run_compare

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=alert(1)>"
Opener = Callable[..., Any]


def _write_run(folder: Path, *, found: Callable[[int, int], bool]) -> Path:
    """Thirty images with up to five objects of three classes; `found` tells by image and object which ones the run finds."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(30):
        Image.new("RGB", (150, 90), (8 * index, 120, 160)).save(folder / "images" / f"{index}.png")
        gt = [{"type": "bbox_2d", "points": [5 + 25 * k, 10, 25 + 25 * k, 50], "desc": ("cat", "dog", HOSTILE)[k % 3]} for k in range(index % 6)]
        pred = [{**item, "score": 1 / (2 + index + k / 7)} for k, item in enumerate(gt) if found(index, k)]
        lines.append(json.dumps({"image": f"images/{index}.png", "width": 150, "height": 90, "coord_mode": "pixel", "gt": gt, "pred": pred}))
    (folder / "gt_vs_pred.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finds the first object of each image, and the second of every third; B all cats and dogs, but none in every fifth image."""
    folder = tmp_path_factory.mktemp("compare")
    before = _write_run(folder / "a run with a rather long name, to see it wrap", found=lambda image, k: k == 0 or (k == 1 and image % 3 == 0))
    after = _write_run(folder / "after", found=lambda image, k: k % 3 < 2 and image % 5 > 0)
    run_compare(CompareConfig(a=before, b=after, out_dir=folder / "out", bootstrap=100, label_match="exact"))
    return folder / "out" / "compare.html"


@pytest.fixture
def open_page(visit: Opener, compared: Path) -> Opener:
    return partial(visit, compared)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1280, 900)], ids=["phone", "desktop"])
def test_the_page_fits_its_width_and_text_contrasts_with_its_ground(open_page: Opener, is_dark_on_light: Any, size: tuple[int, int], scheme: str) -> None:
    with open_page(size=size, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert is_dark_on_light(page) == (scheme == "light")
        sections = page.locator("main > section").evaluate_all("sections => sections.map(section => section.id)")
        assert sections == ["summary", "groups", "classes", "gallery", "run"]


def test_classes_are_sorted_by_change_and_by_any_other_column(open_page: Opener) -> None:
    with open_page() as page:
        rows = page.locator("#class-changes tbody tr")
        values = "rows => rows.map(row => Number(row.cells[COLUMN].dataset.value))"
        changes = rows.evaluate_all(values.replace("COLUMN", "4"))
        assert changes == sorted(changes, reverse=True)
        assert len(changes) == 3
        page.get_by_role("button", name="Truths").click()
        truths = rows.evaluate_all(values.replace("COLUMN", "1"))
        assert truths == sorted(truths, reverse=True)
        page.get_by_placeholder("Filter classes").fill("dog")
        assert rows.evaluate_all("rows => rows.map(row => row.cells[0].dataset.value)") == ["dog"]


def test_an_interval_is_drawn_where_its_numbers_say(open_page: Opener) -> None:
    with open_page() as page:
        for row in page.locator("#summary .changes tbody tr").all()[:6]:
            zero, dot = row.locator(".zero").bounding_box(), row.locator("circle").bounding_box()
            delta = float(row.locator("td").nth(2).get_attribute("data-value"))
            offset = dot["x"] + dot["width"] / 2 - (zero["x"] + zero["width"] / 2)
            assert (abs(offset) < 1) == (abs(delta) < 0.002)
            assert offset * delta >= 0


def test_cards_name_what_only_one_run_finds_and_can_be_narrowed_to_it(open_page: Opener) -> None:
    with open_page() as page:
        files = page.locator("#cards .file").all_inner_texts()
        assert page.locator("#cards .card").count() == len(files) == 17
        lines = page.locator("#cards .changed").all_inner_texts()
        assert {line.partition(":")[0] for line in lines} == {
            "+1 found only by B",
            "+2 found only by B",
            "+3 found only by B",
            "−1 found only by A",
            "−2 found only by A",
        }
        assert page.locator("#cards .card").first.locator(".which").all_inner_texts()[0].startswith("A")
        page.get_by_label("Images by kind of error").select_option("lost")
        assert all("found only by A" in text for text in page.locator("#cards .caption").all_inner_texts())
        page.get_by_label("Images by kind of error").select_option("")
        page.get_by_label("Order of the images").select_option("place")
        assert page.locator("#cards .file").all_inner_texts() == sorted(files, key=lambda name: int(Path(name).stem))


def test_an_image_is_enlarged_with_both_runs_and_the_keyboard_goes_on(open_page: Opener) -> None:
    with open_page() as page:
        page.locator(".card .open").first.click()
        first = page.locator("#viewer-title").inner_text()
        assert page.locator("#viewer-body .shot").count() == 2
        page.keyboard.press("ArrowRight")
        assert page.locator("#viewer-title").inner_text() != first
        page.keyboard.press("Escape")
        assert not page.locator("#viewer").is_visible()


def test_a_hostile_label_is_shown_and_does_nothing(open_page: Opener) -> None:
    with open_page() as page:
        assert page.locator("#class-changes tbody th", has_text="document.title='hacked'").count() == 1
        assert page.title() == "a run with a rather long name, to see it wrap → after · comparison"
        assert page.locator("img[src=x]").count() == 0
