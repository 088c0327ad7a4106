"""The report in a real browser: silent console, working controls, no sideways scrolling on a phone, harmless labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from coordexp.recipes.report import run_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PHONE, DESKTOP = (390, 844), (1280, 900)
HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=alert(1)>"
SECTIONS = ["summary", "confidence", "errors", "classes", "gallery", "generation", "training", "run"]
Opener = Callable[..., Any]


def _write_run(folder: Path, *, keep: float) -> Path:
    """Thirty images; a share `keep` of the objects is found, one prediction in three has another name."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index in range(30):
        rng = np.random.default_rng(index)
        Image.fromarray(rng.integers(0, 255, (90, 120, 3)).astype(np.uint8)).save(folder / "images" / f"{index}.png")
        gt = [_box(("cat", "dog", HOSTILE)[k % 3], 5 + 25 * k) for k in range(index % 5)]
        pred = [{**item, "score": round(float(rng.random()), 4)} for item in gt if rng.random() < keep]
        if index % 3 == 0:
            pred = [{**item, "desc": "cat"} for item in pred]
        lines.append(json.dumps({"image": f"images/{index}.png", "width": 120, "height": 90, "coord_mode": "pixel", "gt": gt, "pred": pred}))
    (folder / "gt_vs_pred.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _box(desc: str, x: int) -> dict[str, Any]:
    return {"type": "bbox_2d", "points": [x, 10, x + 20, 50], "desc": desc}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "train").mkdir()
    log = [{"mode": "train", "step": step, "loss": 1 / step, "coord_diag/expected_bin_mae": 30 / step} for step in range(1, 101)]
    (folder / "train" / "logging.jsonl").write_text("\n".join(json.dumps(event) for event in log))
    before, after = _write_run(folder / "before", keep=0.4), _write_run(folder / "after", keep=0.8)
    return run_report(after, before=before, training=folder / "train", output=folder / "report.html", title="A run with a rather long name, to see it wrap")


@pytest.fixture
def open_page(visit: Opener, report: Path) -> Opener:
    """Opens a report as `visit` does."""
    return lambda path=report, **more: visit(path, **more)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_fits_its_width_and_text_contrasts_with_its_ground(open_page: Opener, is_dark_on_light: Any, size: tuple[int, int], scheme: str) -> None:
    with open_page(size=size, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert is_dark_on_light(page) == (scheme == "light")
        assert page.locator("main > section").evaluate_all("sections => sections.map(section => section.id)") == SECTIONS


def _places(page: Page) -> list[int]:
    return page.locator("#cards .card").evaluate_all("cards => cards.map(card => Number(card.dataset.place))")


def test_checkboxes_show_and_hide_ground_truth_and_predictions(open_page: Opener) -> None:
    with open_page() as page:
        truth, prediction, name = (page.locator(f"#cards {part}").first for part in (".mark.gt", ".mark.pred", ".tag.miss"))
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


def test_a_header_sorts_the_table_and_a_second_time_turns_it_round(open_page: Opener) -> None:
    with open_page() as page:
        head = page.locator("#class-table thead th", has_text="F1 at 0.50")
        head.get_by_role("button").focus()
        for direction in ("descending", "ascending"):
            page.keyboard.press("Enter")
            values = page.locator("#class-table tbody tr").evaluate_all("rows => rows.map(row => Number(row.cells[5].dataset.value))")
            assert head.get_attribute("aria-sort") == direction
            assert values == sorted(values, reverse=direction == "descending")


def test_classes_are_filtered_as_one_types_and_a_class_leads_to_its_images(open_page: Opener) -> None:
    with open_page() as page:
        page.get_by_placeholder("Filter classes").fill("DO")
        assert page.locator("#class-table tbody tr").count() == 2  # dog, and the one with a title
        assert page.locator("[data-shows=class-table]").inner_text() == "2 of 3 classes"
        page.locator("#class-table tbody tr", has_text="dog").get_by_role("button").click()
        assert page.locator("#only-text").input_value() == '"dog"'
        assert sorted(_places(page)) == [place for place in range(30) if place % 5 >= 2]


def test_a_class_leads_to_its_images_in_whatever_spelling(open_page: Opener, tmp_path: Path) -> None:
    names = ["wine_glass", "Wine glass", "cup", "wine  (glass)"]
    lines = [json.dumps({"image": f"{name}.png", "width": 120, "height": 90, "gt": [_box(name, 5)], "pred": []}) for name in names]
    (tmp_path / "gt_vs_pred.jsonl").write_text("\n".join(lines) + "\n")
    with open_page(run_report(tmp_path, thumbnails="none")) as page:
        page.locator("#class-table button[data-find='wine_glass']").click()
        assert sorted(_places(page)) == [0, 1, 3]


def test_the_gallery_can_be_ordered_filtered_and_paged(open_page: Opener) -> None:
    with open_page() as page:
        shown = page.locator("#gallery .shown").first
        assert shown.inner_text() == "1–24 of 30 images"
        page.get_by_label("Order of the images").select_option("place")
        assert _places(page) == list(range(24))
        page.get_by_role("button", name="Next images").first.click()
        assert _places(page) == list(range(24, 30))
        page.get_by_placeholder("Class or file name").fill("images/7")
        assert _places(page) == [7]
        page.get_by_placeholder("Class or file name").fill("")
        page.get_by_label("Images by kind of error").select_option("clean")
        assert 0 in _places(page)
        page.locator("#error-classification ~ button").click()
        assert page.get_by_label("Images by kind of error").input_value() == "classification"
        assert all(place % 3 == 0 for place in _places(page))


def test_an_image_is_enlarged_and_the_keyboard_goes_through_the_gallery(open_page: Opener) -> None:
    with open_page() as page:
        page.locator("#cards .open").first.click()
        first = page.locator("#viewer-title").inner_text()
        assert page.locator("#viewer-body .shot").first.bounding_box()["width"] > page.locator("#cards .shot").first.bounding_box()["width"]
        page.locator("#viewer-body .mark.pred").first.hover(position={"x": 1, "y": 1})
        assert page.locator("#viewer-note").inner_text().startswith("prediction: ")
        page.keyboard.press("ArrowRight")
        assert page.locator("#viewer-title").inner_text() != first
        page.keyboard.press("Escape")
        assert not page.locator("#viewer").is_visible()


def test_the_picture_of_an_error_opens_its_image(open_page: Opener) -> None:
    with open_page() as page:
        crop = page.locator("#errors .crop").first
        name = crop.get_attribute("title")
        crop.click()
        assert page.locator("#viewer-title").inner_text() == name


def test_the_pointer_reads_values_off_a_training_curve(open_page: Opener) -> None:
    with open_page() as page:
        figure = page.locator("#training figure").first
        assert figure.locator(".read-out").inner_text() == "0.0101"
        figure.locator("svg").hover(position={"x": 200, "y": 60})
        assert figure.locator(".read-out").inner_text().startswith("step ")


def test_the_curve_of_a_class_can_be_chosen(open_page: Opener) -> None:
    with open_page() as page:
        lines = page.locator("#pr-curves .chosen")
        assert lines.count() == 0
        page.get_by_label("Curve of").select_option("dog")
        assert lines.count() == 2
        page.locator("#pr-curves svg").hover(position={"x": 100, "y": 60})
        assert page.locator("#pr-curves .read-out").inner_text().startswith("recall 0.")
        page.get_by_label("Curve of").select_option("all classes (mean)")
        assert lines.count() == 0


def test_a_hostile_label_is_shown_and_does_nothing(open_page: Opener) -> None:
    with open_page() as page:
        page.locator("#class-table tbody tr", has_text="document.title='hacked'").get_by_role("button").click()
        page.locator("#cards .open").first.click()
        page.get_by_label("Curve of").evaluate("select => { select.selectedIndex = 3; select.dispatchEvent(new Event('change')); }")
        assert page.locator("#viewer-body .tag", has_text="onerror=alert(1)").count() > 0
        assert page.title() != "hacked"
        assert page.locator("img:not([src^='data:'])").count() == 0


def test_pictures_in_a_folder_are_loaded_and_a_missing_folder_is_said(open_page: Opener, browser: Browser, report: Path, tmp_path: Path) -> None:
    path = run_report(report.parent / "after", output=tmp_path / "run #1 100%.html", max_images=2)
    with open_page(path) as page:
        page.wait_for_function("[...document.querySelectorAll('#cards img')].every(image => image.complete)")
        assert page.locator("#cards img").evaluate_all("images => images.map(image => image.naturalWidth)") == [120] * 24
        assert not page.locator("#no-files").is_visible()
    (tmp_path / "run #1 100%_files").rename(tmp_path / "elsewhere")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("#no-files").wait_for(state="visible")
    page.close()


def test_a_run_of_five_thousand_images_keeps_the_page_small(open_page: Opener, tmp_path: Path) -> None:
    with open_page(run_report(_write_large_run(tmp_path / "large"), thumbnails="inline")) as page:
        assert page.locator("#gallery .shown").first.inner_text() == "1–24 of 5,000 images"
        for _ in range(3):
            page.get_by_role("button", name="Next images").last.click()
        assert page.locator("#cards .card").count() == 24
        assert page.locator("#class-table tbody tr").count() == 25
        assert page.evaluate("document.getElementsByTagName('*').length") < 4000
        page.get_by_placeholder("Class or file name").fill("004999")
        assert _places(page) == [4999]


def _write_large_run(folder: Path) -> Path:
    """Seven objects an image of 100 classes; all names are links to one small image."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (120, 90), (90, 120, 150)).save(folder / "first.png")
    rng = np.random.default_rng(0)
    corners, classes, scores = rng.integers(0, 60, (5000, 7, 2)).tolist(), rng.integers(0, 100, (5000, 7)).tolist(), rng.random((5000, 7)).round(4).tolist()
    with (folder / "gt_vs_pred.jsonl").open("w") as stream:
        for place in range(5000):
            (folder / "images" / f"{place:06d}.png").hardlink_to(folder / "first.png")
            objects = [{"bbox_2d": [x, y, x + 30, y + 25], "desc": f"class {name}"} for (x, y), name in zip(corners[place], classes[place], strict=True)]
            pred = [{**item, "score": score} for item, score in zip(objects, scores[place], strict=True) if score > 0.2]
            stream.write(json.dumps({"image": f"images/{place:06d}.png", "width": 120, "height": 90, "gt": objects, "pred": pred}) + "\n")
    return folder
