"""Small disks that can be full. Chromium for the tests marked `browser`: without one they fail with a sentence; NO_BROWSER=1 leaves them out and says which."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own of the size that is asked for, such as `4k`."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"this test mounts a small tmpfs and may not: {done.stderr.strip()}; run it as root") if os.geteuid() == 0 else pytest.skip(
                "needs root"
            )
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next((found for found in map(shutil.which, _NAMES) if found), None)
    if path is None:
        pytest.fail("Chromium was not found: run tools/setup_system.sh or install the package 'chromium', or set NO_BROWSER=1.", pytrace=False)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield instance
        instance.close()


@pytest.fixture
def visit(browser: Browser) -> Callable[..., Any]:
    """Opens a file without a network and checks in the end that the console stayed silent and nothing asked to be fetched."""

    @contextmanager
    def visited(path: Path, *, size: tuple[int, int] = (1280, 900), scheme: Any = "light") -> Iterator[Page]:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, offline=True)
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: problems.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        page.goto(path.as_uri())
        yield page
        context.close()
        assert problems == []

    return visited


@pytest.fixture
def is_dark_on_light() -> Callable[[Page], bool]:
    """Whether the text of a page is darker than its ground."""

    def brightness(color: str) -> float:
        return sum(float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3])

    def compared(page: Page) -> bool:
        ink, ground = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
        return brightness(ink) < brightness(ground)

    return compared
