"""Names, file names and titles that are markup, scripts or addresses, in every page that the package writes, opened in a real browser.

Each page is opened twice: as it is, and without its content policy, so that escaping is seen to hold by itself. Every text is shown, none does anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from coordexp.cli.main import main
from coordexp.models.assets import tiny_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

RUN = "window.hacked=1"
NAMES = (
    f"</script><script>{RUN}</script>",
    f"</title></style></textarea><script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}><animate onbegin={RUN}>",
    f'" onmouseover="{RUN}" onfocus="{RUN}" autofocus tabindex="0',
    f"' onmouseover='{RUN}' onfocus='{RUN}' autofocus tabindex='0",
    '"><iframe srcdoc="<script>parent.hacked=1</script>">',
    f"<a href=javascript:{RUN}>go</a>",
    f"javascript:{RUN}",
    "<base href='http://attacker.invalid/'>",
    "<meta http-equiv=refresh content='0;url=http://attacker.invalid/'>",
    "<style>@import 'http://attacker.invalid/a.css'; body { display: none }</style>",
    "<form action=http://attacker.invalid/><button autofocus>",
    f"<!--<script>{RUN}//-->",
    f"\u2028{RUN}\u2029//",
    f"`${{{RUN}}}` {{{{ 7*7 }}}} {{% raw %}}",
    f'\\");{RUN}//',
    f"]]><![CDATA[<script>{RUN}</script>",
)
ATTACK = """() => {
  const found = window.hacked ? ['a script ran'] : [];
  for (const element of document.querySelectorAll('*')) {
    for (const { name, value } of element.attributes) {
      const leads = ['href', 'src', 'srcset', 'action', 'data', 'poster', 'xlink:href'].includes(name);
      if (name.startsWith('on') || leads && /javascript:|attacker/i.test(value)) found.push(element.outerHTML.slice(0, 200));
    }
  }
  const kinds = 'iframe, object, embed, base, form, animate, img[src=x], meta[http-equiv=refresh], link[rel=stylesheet]';
  return found.concat([...document.querySelectorAll(kinds)].map(element => element.outerHTML.slice(0, 200)));
}"""
TOUCH = """() => document.querySelectorAll('*').forEach(
  part => ['mouseover', 'mouseenter', 'focus'].forEach(kind => part.dispatchEvent(new Event(kind, {bubbles: true}))))"""


def _object(desc: str, place: int) -> dict[str, Any]:
    x = 4 + 30 * (place % 3)
    return {"desc": desc, "bbox_2d": [x, 6, x + 24, 70]}


def _predicted(desc: str, place: int) -> dict[str, Any]:
    item = _object(desc, place)
    return {"type": "bbox_2d", "points": item["bbox_2d"], "desc": desc, "score": 0.5 + place / 100}


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _file_name(name: str) -> str:
    """What a file system takes; as much of the attack as there is room for."""
    return "a" + name.replace("/", "⁄").replace("\\", "⧵")[:80] + ".png"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("<b>hostile & 'folder'")
    truth, before, after = [], [], []
    for place, name in enumerate(NAMES):
        file = _file_name(name)
        Image.new("RGB", (96, 96), (place * 12, 90, 90)).save(folder / file)
        names = [name, NAMES[(place + 1) % len(NAMES)], "cat"]
        truth.append({"images": [file], "objects": [_object(desc, k) for k, desc in enumerate(names)], "width": 96, "height": 96, "coord_space": "pixel"})
        gt = [{"type": "bbox_2d", "points": item["bbox_2d"], "desc": item["desc"]} for item in truth[-1]["objects"]]
        row = {"image": file, "width": 96, "height": 96, "mode": "coord", "coord_mode": "pixel", "gt": gt, "errors": [name], "raw_output": name}
        before.append({**row, "pred": [_predicted(names[1], 0), _predicted(name, 1)]})
        after.append({**row, "pred": [_predicted(desc, k) for k, desc in enumerate(names[:2])]})
    train = _write(folder / "train.jsonl", truth)
    paths = [_write(folder / part / "gt_vs_pred.jsonl", rows) for part, rows in (("before", before), ("after", after))]
    root = ["--root_image_dir", str(folder)]
    assert main(["report", str(paths[1].parent), "--before", str(paths[0].parent), *root, "--output", str(folder / "report.html")]) == 0
    assert main(["eval", "compare", str(paths[0]), str(paths[1]), *root, "--out_dir", str(folder / "compare")]) == 0
    model = ["--model", str(tiny_checkpoint())]
    assert main(["doctor", "data", str(train), *model, "--samples", "18", "--output", str(folder / "doctor.html")]) in (0, 2, 3)
    assert main(["data", "stats", str(train), "--output", str(folder / "stats.html")]) == 0
    (comparison,) = (folder / "compare").glob("*.html")
    return {"report": folder / "report.html", "compare": comparison, "doctor": folder / "doctor.html", "stats": folder / "stats.html"}


@pytest.fixture
def open_unguarded(browser: Browser, tmp_path: Path) -> Iterator[Callable[[Path], Page]]:
    """Opens a copy of a page that has lost its content policy."""
    context = browser.new_context(offline=True)

    def opened(path: Path) -> Page:
        text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
        assert count == 1
        copy = tmp_path / "unguarded.html"
        copy.write_text(text, encoding="utf-8")
        page = context.new_page()
        page.goto(copy.as_uri())
        return page

    yield opened
    context.close()


def _use(page: Page) -> None:
    """What a reader does: opens what is folded, looks at a picture, scrolls to the end, moves over everything."""
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.evaluate(TOUCH)
    cards = page.locator("#cards .card")
    if cards.count():
        cards.first.click()
        page.keyboard.press("ArrowRight")


@pytest.mark.parametrize("kind", ["report", "compare", "doctor", "stats"])
def test_the_page_shows_hostile_names_and_none_does_anything(kind: str, pages: dict[str, Path], visit: Callable[..., Any]) -> None:
    with visit(pages[kind]) as page:
        _use(page)
        assert page.evaluate(ATTACK) == []
        shown = page.evaluate("document.documentElement.textContent")
        assert sum(name.split("\u2028")[0] in shown or json.dumps(name)[1:-1] in shown for name in NAMES) >= len(NAMES) - 3


@pytest.mark.parametrize("kind", ["report", "compare", "doctor", "stats"])
def test_escaping_holds_without_the_content_policy(kind: str, pages: dict[str, Path], open_unguarded: Callable[[Path], Page]) -> None:
    page = open_unguarded(pages[kind])
    _use(page)
    assert page.evaluate(ATTACK) == []


def test_most_of_the_attacks_work_on_a_page_that_does_not_escape(browser: Browser) -> None:
    context = browser.new_context(offline=True)
    page, seen = context.new_page(), set[str]()
    for name in NAMES:
        for quote in "'\"":
            if "refresh" not in name:  # it works, and takes the page away
                page.set_content(f"<p title={quote}{name}{quote}>{name}</p>")
                seen |= {name} if page.evaluate(ATTACK) else set()
    context.close()
    assert len(seen) >= 10
