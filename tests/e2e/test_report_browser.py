"""The report in a real browser: silent console, working controls, no sideways scrolling on a phone, harmless labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from coordexp.recipes.report import run_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PHONE, DESKTOP = (390, 844), (1440, 900)
HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
Opener = Callable[..., Any]


def _write_run(folder: Path, *, keep: float) -> Path:
    """Twelve images; a share `keep` of the objects is found."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(12):
        rng = np.random.default_rng(index)
        Image.fromarray(rng.integers(0, 255, (90, 120, 3)).astype(np.uint8)).save(folder / "images" / f"{index}.png")
        gt = [{"type": "bbox_2d", "points": [5 + 25 * k, 10, 25 + 25 * k, 50], "desc": ("cat", "dog", HOSTILE)[k % 3]} for k in range(index % 5)]
        pred = [{**item, "score": float(rng.random())} for item in gt if rng.random() < keep]
        lines.append(json.dumps({"image": f"images/{index}.png", "width": 120, "height": 90, "coord_mode": "pixel", "gt": gt, "pred": pred}))
    (folder / "gt_vs_pred.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "train").mkdir()
    log = [{"mode": "train", "step": step, "loss": 1 / step, "coord_diag/expected_bin_mae": 30 / step} for step in range(1, 101)]
    (folder / "train" / "logging.jsonl").write_text("\n".join(json.dumps(event) for event in log))
    before, after = _write_run(folder / "before", keep=0.4), _write_run(folder / "after", keep=0.8)
    return run_report(after, before=before, training=folder / "train", output=folder / "report.html", title="A run with a rather long name, to see it wrap")


@pytest.fixture
def open_page(browser: Browser, report: Path) -> Opener:
    """Opens the report without a network and checks in the end that the console stayed silent."""

    @contextmanager
    def opened(size: tuple[int, int] = DESKTOP, scheme: Any = "light") -> Iterator[Page]:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True)
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.goto(report.as_uri())
        yield page
        context.close()
        assert problems == []

    return opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_fits_its_width_and_text_contrasts_with_its_ground(open_page: Opener, size: tuple[int, int], scheme: str) -> None:
    with open_page(size, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        ink, ground = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        assert (_brightness(ink) < _brightness(ground)) == (scheme == "light")
        assert page.evaluate("document.title").endswith("detection report")


def _brightness(color: str) -> float:
    return sum(float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])


def test_checkboxes_show_and_hide_ground_truth_and_predictions(open_page: Opener) -> None:
    with open_page() as page:
        truth, prediction, name = (page.locator(f".card {part}").first for part in (".mark.gt", ".mark.pred", ".tag.miss"))
        assert truth.is_visible()
        assert prediction.is_visible()
        page.get_by_label("Ground truth", exact=True).uncheck()
        assert not truth.is_visible()
        assert prediction.is_visible()
        page.get_by_label("Ground truth", exact=True).check()
        page.get_by_label("Predictions", exact=True).uncheck()
        assert truth.is_visible()
        assert not prediction.is_visible()
        page.get_by_label("Names", exact=True).uncheck()
        assert not name.is_visible()


def test_a_click_on_a_header_sorts_the_table_and_a_second_one_turns_it_round(open_page: Opener) -> None:
    with open_page() as page:
        head = page.locator(".sortable thead th", has_text="F1 at 0.50")
        for direction in ("descending", "ascending"):
            head.get_by_role("button").click()
            values = page.locator(".sortable tbody tr").evaluate_all("rows => rows.map(row => Number(row.cells[5].dataset.value))")
            assert head.get_attribute("aria-sort") == direction
            assert values == sorted(values, reverse=direction == "descending")


def test_the_gallery_can_be_ordered_and_filtered(open_page: Opener) -> None:
    with open_page() as page:
        places = "cards => cards.filter(card => !card.hidden).map(card => Number(card.dataset.place))"
        errors = page.locator(".card").evaluate_all("cards => cards.map(card => Number(card.dataset.errors))")
        assert errors == sorted(errors, reverse=True)
        page.get_by_label("Order of the images").select_option("place")
        assert page.locator(".card").evaluate_all(places) == list(range(12))
        page.get_by_label("Only images with this class").select_option("dog")
        assert page.locator(".card").evaluate_all(places) == [2, 3, 4, 7, 8, 9]
        assert page.locator("#shown").inner_text() == "6 images"


def test_an_image_is_enlarged_and_the_keyboard_goes_through_the_gallery(open_page: Opener) -> None:
    with open_page() as page:
        page.locator(".card .open").first.click()
        first = page.locator("#viewer-title").inner_text()
        assert page.locator("#viewer-body .shot").first.bounding_box()["width"] > page.locator(".card .shot").first.bounding_box()["width"]
        page.keyboard.press("ArrowRight")
        assert page.locator("#viewer-title").inner_text() != first
        page.keyboard.press("Escape")
        assert not page.locator("#viewer").is_visible()


def test_the_pointer_reads_values_off_a_training_curve(open_page: Opener) -> None:
    with open_page() as page:
        figure = page.locator("#training figure").first
        assert figure.locator(".read-out").inner_text() == "0.0101"
        figure.locator("svg").hover(position={"x": 200, "y": 60})
        assert figure.locator(".read-out").inner_text().startswith("step ")


def test_a_hostile_label_is_shown_and_does_nothing(open_page: Opener) -> None:
    with open_page() as page:
        assert page.locator(".sortable tbody th", has_text="document.title='hacked'").count() == 1
        assert page.title() != "hacked"
        assert page.locator("img").count() == 0
